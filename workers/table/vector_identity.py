"""What decides the vector of a text: the one list, from which every other one derives.

    STAMP      what a part's footer says of its origin (SnapshotStamp)
    SETTINGS   the `model` section of the configuration (ModelConfig)
    RECIPE     the section resolved by the model's own files (EmbeddingRecipe)

Each name has an Effect. A new field of one of the three must be added here: tests/workers/table/test_vector_identity.py
fails until it is. From this list derive the footers that must agree within a snapshot (workers/table/schema.py), the facts
in run.json and the settings fingerprint (jobs/state/records.py), the key of reuse (jobs/planning/reuse.py), and the identity
that the gate compares (jobs/publish/gate/judge.py). Strings only: nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Effect(StrEnum):
    """What another value of a field changes."""

    VECTOR = "vector"  # the vector of a text: never reused, never mixed, told by the gate
    STORED = "stored"  # the stored form of a vector only; every run without a base chooses it anew
    RUN = "run"  # another run, the same vectors but for rounding
    NAME = "name"  # nothing: another name or place of the same weights


STAMP: Mapping[str, Effect] = {
    "weights_digest": Effect.VECTOR,
    "tokenizer_digest": Effect.VECTOR,
    "pooling": Effect.VECTOR,
    "normalize": Effect.VECTOR,
    "prompt": Effect.VECTOR,
    "dim": Effect.VECTOR,
    "max_tokens": Effect.VECTOR,
    "long_text": Effect.VECTOR,
    "precision": Effect.VECTOR,
    "vector": Effect.VECTOR,
    "int8_scale": Effect.STORED,
    "vectors": Effect.VECTOR,
    "int8_scales": Effect.STORED,
    "model": Effect.NAME,
    "revision": Effect.NAME,
    "run_id": Effect.RUN,
    "code_version": Effect.RUN,
}
SETTINGS: Mapping[str, Effect] = {
    "name": Effect.NAME,  # the digests speak for it
    "revision": Effect.NAME,
    "storage_options": Effect.NAME,
    "pooling": Effect.VECTOR,
    "normalize": Effect.VECTOR,
    "max_tokens": Effect.VECTOR,
    "long_text": Effect.VECTOR,
    "chunk_by": Effect.VECTOR,
    "chunk_tokens": Effect.VECTOR,
    "chunk_language": Effect.VECTOR,
    "chunk_overlap": Effect.VECTOR,
    "prompt": Effect.VECTOR,
    "query_prompt": Effect.RUN,  # of searches, not of documents
    "truncate_dim": Effect.VECTOR,
    "precision": Effect.VECTOR,
    "batch_tokens": Effect.RUN,
    "sparse_top": Effect.VECTOR,
}
RECIPE: Mapping[str, Effect] = {
    "transformer": Effect.VECTOR,
    "pooling": Effect.VECTOR,
    "include_prompt": Effect.VECTOR,
    "normalize": Effect.VECTOR,
    "max_tokens": Effect.VECTOR,
    "long_text": Effect.VECTOR,
    "chunk_by": Effect.VECTOR,
    "chunk_tokens": Effect.VECTOR,
    "chunk_language": Effect.VECTOR,
    "splitter": Effect.VECTOR,
    "chunk_overlap": Effect.VECTOR,
    "prompt": Effect.VECTOR,
    "query_prompt": Effect.RUN,  # of searches, not of documents
    "truncate_dim": Effect.VECTOR,
    "do_lower_case": Effect.VECTOR,
    "token_modules": Effect.VECTOR,
    "vector_modules": Effect.VECTOR,
    "dim": Effect.VECTOR,
    "query_tokens": Effect.RUN,
    "engine": Effect.VECTOR,
    "tokenizer": Effect.VECTOR,
    "sparse": Effect.VECTOR,
    "static": Effect.VECTOR,
    "late_interaction": Effect.VECTOR,
}
LATER_STAMP: Mapping[str, Any] = {"vectors": "", "int8_scales": ""}
LATER_SETTINGS: Mapping[str, Any] = {
    "query_prompt": None,
    "chunk_by": "tokens",
    "chunk_tokens": "auto",
    "chunk_language": "en",
    "sparse_top": "auto",
}
LATER_RECIPE: Mapping[str, Any] = {
    "query_tokens": None,
    "engine": "",
    "tokenizer": "",
    "chunk_by": "tokens",
    "chunk_tokens": None,
    "chunk_language": "",
    "splitter": "",
    "sparse": None,
    "static": None,
    "late_interaction": None,
}
"""Fields that version 0.1 did not have, with the value that means what that version did. A stored run without such a field
is compared with today's as if it had that value."""
OF_CHUNKS = ("chunk_overlap", "chunk_by", "chunk_tokens", "chunk_language")
"""Settings without an effect where texts are truncated."""
OF_SPARSE = ("sparse_top",)
"""Settings without an effect but on pooling: sparse."""


def as_first_stored(fields: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Without the `later` fields that have their first meaning."""
    return {name: value for name, value in fields.items() if name not in later or value != later[name]}


def names(fields: Mapping[str, Effect], *effects: Effect) -> tuple[str, ...]:
    """Names of the fields with one of these effects, in the list's order."""
    return tuple(name for name, effect in fields.items() if effect in effects)


VECTOR_FACTS = names(STAMP, Effect.VECTOR)
"""Facts of a snapshot that decide the vector of a text."""
FOOTER_FACTS = names(STAMP, Effect.VECTOR, Effect.STORED)
"""Facts in which the parts of one snapshot agree."""
TOLD_FACTS = ("name", "revision", *(name for name in VECTOR_FACTS if name not in ("prompt", "vectors")))
"""Facts of run.json's `model` that a data set card and lineage events tell. A prompt is a text of the user's; the columns of
vectors are told by the schema."""
FACTS_BESIDE_RECIPE = tuple(name for name in VECTOR_FACTS if name not in RECIPE)
"""Vector facts that the recipe does not hold: digests, precision, vector type."""


def deciding(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored recipe that decide vectors. A name that is not known here counts as one."""
    fields = as_first_stored(recipe, LATER_RECIPE)
    return {name: value for name, value in fields.items() if RECIPE.get(name, Effect.VECTOR) is Effect.VECTOR}

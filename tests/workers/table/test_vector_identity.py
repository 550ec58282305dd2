"""A new setting of the model must be put on the list of what decides a vector, or off it."""

from __future__ import annotations

import dataclasses

import pytest

from workers.config import ModelConfig
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.table.schema import SnapshotStamp
from workers.table.vector_identity import (
    FACTS_BESIDE_RECIPE,
    FOOTER_FACTS,
    LATER_RECIPE,
    LATER_SETTINGS,
    LATER_STAMP,
    RECIPE,
    SETTINGS,
    STAMP,
    TOLD_FACTS,
    VECTOR_FACTS,
    Effect,
    as_first_stored,
    deciding,
)


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    ("listed", "declared"),
    [
        (STAMP, fields(SnapshotStamp)),
        (SETTINGS, set(ModelConfig.model_fields)),
        (RECIPE, fields(EmbeddingRecipe)),
    ],
    ids=["SnapshotStamp", "ModelConfig", "EmbeddingRecipe"],
)
def test_every_field_is_listed_with_its_effect(listed: dict[str, Effect], declared: set[str]) -> None:
    assert set(listed) == declared, "add the new field to workers/table/vector_identity.py, with what it changes"


def test_what_earlier_versions_compared_is_compared_still() -> None:
    """The lists of version 0.1.0, where each stood by itself: a snapshot of that version must be judged as before."""
    shared = {"weights_digest", "tokenizer_digest", "pooling", "normalize", "precision", "prompt", "dim", "max_tokens"}
    assert set(LATER_STAMP) == {"vectors", "int8_scales"}, "nothing is stored of these where they say what 0.1.0 did"
    assert set(VECTOR_FACTS) == shared | {"long_text", "vector", "vectors"}
    assert set(FOOTER_FACTS) == shared | {"long_text", "vector", "int8_scale"} | set(LATER_STAMP)
    assert set(TOLD_FACTS) == (shared - {"prompt"}) | {"long_text", "vector", "name", "revision"}
    assert set(FACTS_BESIDE_RECIPE) == {"weights_digest", "tokenizer_digest", "precision", "vector", "vectors"}
    assert {name for name, effect in SETTINGS.items() if effect is Effect.NAME} == {"name", "revision", "storage_options"}


def test_an_effect_on_vectors_is_the_same_in_all_three() -> None:
    for name in set(RECIPE) & set(SETTINGS):
        assert RECIPE[name] is SETTINGS[name], name
    for name in set(RECIPE) & set(STAMP):
        assert RECIPE[name] is STAMP[name], name


def test_a_recipe_without_what_does_not_decide() -> None:
    assert deciding({"pooling": ["mean"], "query_prompt": "q: ", "of_a_later_version": 1}) == {
        "pooling": ["mean"],
        "of_a_later_version": 1,
    }


def test_a_field_of_a_later_version_counts_where_it_means_something_new() -> None:
    stored = {"pooling": ["mean"], "query_prompt": ""}
    assert deciding(stored | {"tokenizer": "", "query_tokens": None}) == deciding(stored)
    assert deciding(stored | {"tokenizer": "4f2a"}) == {"pooling": ["mean"], "tokenizer": "4f2a"}
    assert deciding(stored | {"engine": ""}) == deciding(stored)
    assert deciding(stored | {"engine": "alone"}) == {"pooling": ["mean"], "engine": "alone"}
    unset = {"chunk_by": "tokens", "chunk_tokens": None, "chunk_language": "", "splitter": ""}
    assert deciding(stored | unset) == deciding(stored)
    for name, value in {
        "chunk_by": "sentences",
        "chunk_tokens": 64,
        "chunk_language": "de",
        "splitter": "icu 78 de",
    }.items():
        assert deciding(stored | unset | {name: value}) == {"pooling": ["mean"], name: value}
    assert set(LATER_RECIPE) <= set(RECIPE)
    assert set(LATER_SETTINGS) <= set(SETTINGS)
    assert as_first_stored({"prompt": "", "query_prompt": None}, LATER_SETTINGS) == {"prompt": ""}
    assert as_first_stored({"query_prompt": ""}, LATER_SETTINGS) == {"query_prompt": ""}

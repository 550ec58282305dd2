"""Late-interaction models (ColBERT) by their files: what stands before texts, which tokens count, how queries are expanded.

    sentence-transformers 6   modules.json: Transformer, Dense on tokens, MultiVectorMask, Normalize on tokens; and the
                              transformer's sentence_bert_config.json: document_length, query_length, query_expansion
    PyLate                    modules.json: Transformer, Dense; the rest in config_sentence_transformers.json: query_prefix,
                              document_prefix, query_length, document_length, do_query_expansion, skiplist_words
    Stanford                  no modules.json; config.json says HF_ColBERT, the checkpoint has linear.weight, and
                              artifact.metadata doc_maxlen, query_maxlen, mask_punctuation, doc_token_id, query_token_id

Defaults are those of sentence-transformers' MultiVectorEncoder, which reads all three. No torch.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import UsageError
from workers.model.files import STANFORD
from workers.model.module_list import read_json

LATE = "MultiVectorEncoder"
PYLATE = "ColBERT"
METADATA = "artifact.metadata"
_QUERY_TOKENS = 32  # of a query that is expanded, where the files do not say
_EXPANSION_KEYS = {"strategy", "attend", "token", "length"}
_PYLATE_KEYS = (
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)
_PUNCTUATION = tuple(string.punctuation)


@dataclass(frozen=True, slots=True)
class Expansion:
    """Queries are filled up with a token whose vectors count as well."""

    length: int  # tokens of a query, special tokens included
    fixed: bool  # longer ones are cut; else they stay as long as they are
    attend: bool  # the other tokens see the filling
    token: str | None  # None: the mask token


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """What a model's files say beside its modules."""

    skip: tuple[str, ...] = ()  # tokens without a vector, such as punctuation
    skip_documents: bool = True
    skip_queries: bool = False
    markers: tuple[str, ...] = ()  # at the beginning of prompts; each is one token, though text like it would not be
    expansion: Expansion | None = None
    document_tokens: int | None = None  # longest document and query, where the transformer's own file does not say
    query_tokens: int | None = None
    normalize: bool = False  # unit length, though no module says so


@dataclass(frozen=True, slots=True)
class TokenMask:
    """The settings of a MultiVectorMask module."""

    skip: tuple[str, ...]
    documents: bool
    queries: bool


def is_stanford(model: Mapping[str, Any]) -> bool:
    """Whether config.json is of a checkpoint that Stanford's ColBERT wrote."""
    return STANFORD in (model.get("architectures") or [])


def prompts_of(folder: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """`stored`, the keys of config_sentence_transformers.json, with the markers of PyLate and Stanford as prompts."""
    path = folder / "config.json"
    if not stored and path.is_file() and is_stanford(read_json(path)):
        return {"prompts": _stanford_markers(_metadata(folder))}
    prompts = dict(stored.get("prompts") or {}) if isinstance(stored.get("prompts") or {}, dict) else None
    if prompts is None or not any(f"{name}_prefix" in stored for name in ("query", "document")):
        return dict(stored)
    for name, marker in _pylate_markers(stored).items():
        prompts[name] = marker + str(prompts.get(name) or "").removeprefix(marker)
    return {**stored, "prompts": prompts}


def read_late_interaction(
    folder: Path, model: Mapping[str, Any], expansion: Mapping[str, Any] | None, mask: TokenMask | None
) -> LateInteraction | None:
    """None: the model is of another kind.

    Args:
        model: config.json. expansion: query_expansion of the transformer's settings. mask: MultiVectorMask, if it has one.

    Raises: UsageError: a key that has no such value.
    """
    path = folder / "config_sentence_transformers.json"
    stored = read_json(path) if path.is_file() else {}
    kind = stored.get("model_type")
    if not (folder / "modules.json").is_file():
        if kind in (LATE, PYLATE) and not is_stanford(model):
            raise UsageError(f"{path}: model_type {kind!r} without a modules.json beside it; fetch the model again")
        return _stanford(folder, stored) if is_stanford(model) else None
    if kind not in (LATE, PYLATE):
        if mask is not None:
            place = folder / "modules.json"
            raise UsageError(f"{place}: MultiVectorMask is for late-interaction models; use a model without it")
        return None
    found = None if expansion is None else _expansion(folder, expansion)
    words, documents, queries = (mask.skip, mask.documents, mask.queries) if mask is not None else ((), True, False)
    if mask is None and kind == PYLATE:
        listed = stored.get("skiplist_words")
        words = _PUNCTUATION if listed is None else tuple(map(str, listed))
    query_tokens = _count(path, stored, "query_length")
    if expansion is None and any(key in stored for key in _PYLATE_KEYS) and stored.get("do_query_expansion") is not False:
        attend = stored.get("attend_to_expansion_tokens", stored.get("attend_to_mask_tokens"))
        found, query_tokens = Expansion(query_tokens or _QUERY_TOKENS, True, bool(attend), None), None
    return LateInteraction(
        skip=words,
        skip_documents=documents,
        skip_queries=queries,
        markers=tuple(marker for marker in _pylate_markers(stored).values() if marker.split()),
        expansion=found,
        document_tokens=_count(path, stored, "document_length"),
        query_tokens=query_tokens,
        normalize=kind == PYLATE,
    )


def _stanford(folder: Path, stored: Mapping[str, Any]) -> LateInteraction:
    path, metadata = folder / METADATA, _metadata(folder)
    if stored:
        raise UsageError(f"{folder / 'config_sentence_transformers.json'}: beside a checkpoint of Stanford's; remove it")
    attend, length = bool(metadata.get("attend_to_mask_tokens")), _count(path, metadata, "query_maxlen")
    return LateInteraction(
        skip=_PUNCTUATION if metadata.get("mask_punctuation", True) else (),
        markers=tuple(_stanford_markers(metadata).values()),
        expansion=Expansion(length or _QUERY_TOKENS, True, attend, None),
        document_tokens=_count(path, metadata, "doc_maxlen"),
        normalize=True,
    )


def _expansion(folder: Path, stored: Mapping[str, Any]) -> Expansion:
    if unknown := sorted(set(stored) - _EXPANSION_KEYS):
        raise UsageError(f"{folder}: query_expansion.{unknown[0]}: sentence-transformers does not know this key; remove it")
    length = _count(folder, stored, "length")
    strategy, attend, token = stored.get("strategy"), stored.get("attend", False), stored.get("token")
    if strategy not in ("fixed", "min") or length is None or not isinstance(attend, bool):
        raise UsageError(
            f"{folder}: query_expansion {dict(stored)!r}: must have strategy fixed or min, a length and attend true or false"
        )
    return Expansion(length, strategy == "fixed", attend, token)


def _pylate_markers(stored: Mapping[str, Any]) -> dict[str, str]:
    """By kind of text."""
    return {name: str(stored[f"{name}_prefix"] or "") for name in ("query", "document") if f"{name}_prefix" in stored}


def _stanford_markers(metadata: Mapping[str, Any]) -> dict[str, str]:
    names = {"query": ("query_token_id", "[unused0]"), "document": ("doc_token_id", "[unused1]")}
    return {name: f"{metadata.get(key) or usual} " for name, (key, usual) in names.items()}


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def _count(path: Path, stored: Mapping[str, Any], key: str) -> int | None:
    value = stored.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UsageError(f"{path}: {key} must be a number of tokens, not {value!r}; correct it")
    return value

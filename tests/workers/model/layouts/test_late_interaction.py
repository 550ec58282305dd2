"""Files of late-interaction models: what each layout says, and what is refused. Vectors: tests/workers/engine/retrieval."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest

from workers.errors import UsageError
from workers.model.layouts.late_interaction import Expansion, TokenMask, prompts_of, read_late_interaction

STANFORD = {"architectures": ["HF_ColBERT"]}


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def test_pylate_says_it_beside_its_modules(tmp_path: Path) -> None:
    told = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 20}
    _write(tmp_path, "modules.json", [])
    _write(tmp_path, "config_sentence_transformers.json", told | {"document_length": 90})
    late = read_late_interaction(tmp_path, {}, None, None)
    assert late is not None
    assert late.skip == tuple(string.punctuation)
    assert (late.markers, late.document_tokens, late.normalize) == (("[Q] ", "[D] "), 90, True)
    assert late.expansion == Expansion(length=20, fixed=True, attend=False, token=None)
    prompts = prompts_of(tmp_path, told | {"prompts": {"document": "[D] text: ", "query": None}})["prompts"]
    assert prompts == {"document": "[D] text: ", "query": "[Q] "}


def test_stanford_says_it_in_its_metadata(tmp_path: Path) -> None:
    _write(tmp_path, "artifact.metadata", {"doc_maxlen": 180, "doc_token_id": "[unused5]", "mask_punctuation": False})
    _write(tmp_path, "config.json", STANFORD)
    late = read_late_interaction(tmp_path, STANFORD, None, None)
    assert late is not None
    assert (late.skip, late.document_tokens, late.markers) == ((), 180, ("[unused0] ", "[unused5] "))
    assert late.expansion == Expansion(length=32, fixed=True, attend=False, token=None)
    assert prompts_of(tmp_path, {}) == {"prompts": {"query": "[unused0] ", "document": "[unused5] "}}


def test_other_models_are_none(tmp_path: Path) -> None:
    assert read_late_interaction(tmp_path, {}, None, None) is None
    _write(tmp_path, "modules.json", [])
    assert read_late_interaction(tmp_path, {}, None, None) is None
    with pytest.raises(UsageError, match="MultiVectorMask is for late-interaction models"):
        read_late_interaction(tmp_path, {}, None, TokenMask((), True, False))


def test_what_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "config_sentence_transformers.json", {"model_type": "ColBERT"})
    with pytest.raises(UsageError, match=r"without a modules\.json"):
        read_late_interaction(tmp_path, {}, None, None)
    _write(tmp_path, "modules.json", [])
    for expansion, named in (
        ({"strategy": "fixed", "length": 4, "mask": 1}, r"query_expansion\.mask"),
        ({"strategy": "any", "length": 4}, "must have strategy fixed or min"),
        ({"strategy": "min"}, "must have strategy fixed or min"),
    ):
        with pytest.raises(UsageError, match=named):
            read_late_interaction(tmp_path, {}, expansion, None)

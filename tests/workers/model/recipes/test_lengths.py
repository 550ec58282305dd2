"""The longest input, by the model's files and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.models import edit_json, layout
from workers.errors import UsageError


def test_longest_input_of_the_tokenizer(plain: Path) -> None:
    edit_json(plain / "tokenizer_config.json", model_max_length=100)
    assert layout(plain)[1].max_tokens == 100
    edit_json(plain / "tokenizer_config.json", model_max_length=int(1e30))
    assert layout(plain)[1].max_tokens == 512


@pytest.mark.parametrize(
    ("model_type", "padding", "expected"), [("bert", 0, 512), ("roberta", 1, 512), ("roberta", None, 512), ("mpnet", 1, 512)]
)
def test_positions_of_roberta_begin_after_padding(plain: Path, model_type: str, padding: int | None, expected: int) -> None:
    edit_json(plain / "tokenizer_config.json", model_max_length=None)
    table = 512 if model_type == "bert" else 514
    edit_json(plain / "config.json", model_type=model_type, pad_token_id=padding, max_position_embeddings=table)
    assert layout(plain)[1].max_tokens == expected


def test_max_tokens(model: Path) -> None:
    assert layout(model, max_tokens=512)[1].max_tokens == 512, "more than the layout's 256, and the model can do it"
    with pytest.raises(UsageError, match=r"model.max_tokens=513: .* takes at most 512 tokens; lower it"):
        layout(model, max_tokens=513)
    edit_json(model / "sentence_bert_config.json", max_seq_length=9999)
    assert layout(model)[1].max_tokens == 512


def test_no_longest_input_anywhere(plain: Path) -> None:
    edit_json(plain / "tokenizer_config.json", model_max_length=None)
    edit_json(plain / "config.json", max_position_embeddings=None)
    with pytest.raises(UsageError, match=r"set model.max_tokens"):
        layout(plain)
    assert layout(plain, max_tokens=77)[1].max_tokens == 77

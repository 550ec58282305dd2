"""What the files of a static model say, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.workers.models import edit_json, layout
from tests.workers.static_models import DIM, model2vec_folder, small_tokenizer
from workers.errors import UsageError
from workers.model.files import is_static


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    return small_tokenizer(minilm)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return model2vec_folder(tokenizer, tmp_path / "model", normalize=True, max_length=77)


def test_facts_of_the_files(folder: Path, tokenizer: Tokenizer, minilm: Path) -> None:
    assert is_static(folder)
    assert not is_static(minilm)
    _, recipe = layout(folder)
    assert recipe.static is not None
    median = int(np.median([len(token) for token in tokenizer.get_vocab()]))
    size = tokenizer.get_vocab_size()
    assert (recipe.static.vocabulary, recipe.static.dim, recipe.static.characters) == (size, DIM, median)
    assert recipe.static.unknown == tokenizer.token_to_id("[UNK]")
    assert (recipe.max_tokens, recipe.normalize, recipe.dim, recipe.pooling_name) == (77, True, DIM, "mean")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize": "yes"}, r"config\.json: normalize must be true or false, not 'yes'"),
        ({"max_length": 0}, r"config\.json: max_length must be a number of tokens or null, not 0"),
        ({"max_length": "512"}, r"max_length must be a number"),
    ],
)
def test_settings_of_model2vec(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(UsageError, match=message):
        layout(folder)


def test_files_that_are_missing_or_do_not_fit(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({"embeddings": tensors["embeddings"][:9]}, path)
    with pytest.raises(UsageError, match=r"embeddings is for 9 tokens, tokenizer\.json has \d+; save the model"):
        layout(folder)
    save_file({"other": tensors["embeddings"]}, path)
    with pytest.raises(UsageError, match=r"holds no table of token vectors \(embeddings or embedding\.weight\)"):
        layout(folder)
    path.write_bytes(path.read_bytes()[:6])
    with pytest.raises(UsageError, match=r"not a safetensors file"):
        layout(folder)
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UsageError, match=r"pickled weights"):
        layout(folder)
    folder = model2vec_folder(tokenizer, tmp_path / "other")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer\.json: not a tokenizer"):
        layout(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        layout(folder)

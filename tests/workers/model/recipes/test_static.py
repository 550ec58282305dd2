"""Settings that a static model has, and those that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workers.models import layout, write_modules
from tests.workers.static_models import model2vec_folder, small_tokenizer
from workers.errors import UsageError

OLD = "sentence_transformers.models"


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model2vec_folder(small_tokenizer(minilm), tmp_path_factory.mktemp("static") / "model", normalize=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "cls"}, r"model\.pooling=cls: .* is a static model: its tokens' vectors are averaged; use auto"),
        ({"pooling": "sparse"}, r"model\.pooling=sparse: .* static model"),
        ({"precision": "bfloat16"}, r"model\.precision=bfloat16: .* multiplies no matrices, .*; use auto"),
        ({"precision": "int8"}, r"model\.precision=int8: .* static model"),
        ({"long_text": "late_chunks"}, r"model\.long_text=late_chunks: .*; use chunks"),
        ({"chunk_tokens": 9}, r"model\.chunk_tokens=9: nothing is cut with long_text: truncate"),
        ({"sparse_top": 5}, r"model\.sparse_top=5: .* gives dense vectors; remove it"),
        ({"truncate_dim": 99}, r"model\.truncate_dim=99: the model's vectors have 24 components"),
    ],
)
def test_settings_that_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layout(folder, **settings)


def test_settings_that_it_has(folder: Path) -> None:
    recipe = layout(folder, pooling="mean", precision="float32", truncate_dim=5, normalize=False, max_tokens=9)[1]
    assert (recipe.dim, recipe.normalize, recipe.max_tokens) == (5, False, 9)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([f"{OLD}.StaticEmbedding", f"{OLD}.Pooling"], r"followed by a module on tokens|embedding_dimension"),
        ([f"{OLD}.StaticEmbedding", f"{OLD}.CNN"], r"module sentence_transformers\.models\.CNN is not supported"),
        ([f"{OLD}.BoW"], r"the first module is BoW; only Transformer and StaticEmbedding are supported"),
        ([f"{OLD}.other.StaticEmbedding"], r"has no module type 'sentence_transformers\.models\.other\.StaticEmbedding'"),
        (["mine.StaticEmbedding"], r"custom code"),
    ],
)
def test_modules_that_are_refused(folder: Path, tmp_path: Path, modules: list[str], message: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 24, "pooling_mode": "mean"}')
    write_modules(tmp_path, *((kind, "1_Pooling" if number else "") for number, kind in enumerate(modules)))
    with pytest.raises(UsageError, match=message):
        layout(tmp_path)

"""Late-interaction models against sentence-transformers' MultiVectorEncoder, which reads all three layouts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workers.late_models import DIM, backbone, modern, pylate, stanford
from tests.workers.models import PASSAGE, build, copy_model, edit_json, layout
from workers.config import Pooling
from workers.errors import UsageError
from workers.model.tokenizer import TextTokenizer
from workers.replica.queries import of_queries, special_queries

TOLERANCE = 1e-5
TEXTS = ["snow, ice; and wind!", "A quick brown fox jumps over the lazy dog.", PASSAGE, "...", "[MASK] here [unused1] there"]
QUERIES = ["what froze?", "a boat, three letters and everything that nobody had expected in the harbour " * 3]
Make = Callable[..., Path]


def documents(folder: Path, texts: list[str], **settings: Any) -> list[NDArray[np.float32]]:
    tokenizer, encoder = build(folder, **settings)
    encoded = encoder.encode(tokenizer.tokenize(texts))
    assert encoded.offsets is not None
    return np.split(encoded.vectors, encoded.offsets[1:-1])


def queries(folder: Path, texts: list[str], **settings: Any) -> list[NDArray[np.float32]]:
    files, recipe = layout(folder, **settings)
    recipe = of_queries(recipe)
    special = special_queries(files, recipe)
    if special is not None:
        return special.embed(texts)
    _, encoder = build(folder, **settings)
    encoded = encoder.encode(TextTokenizer(folder, recipe).tokenize(texts))
    assert encoded.offsets is not None
    return np.split(encoded.vectors, encoded.offsets[1:-1])


def expected(folder: Path, texts: list[str], call: str) -> list[NDArray[np.float32]]:
    from sentence_transformers import MultiVectorEncoder

    with warnings.catch_warnings():  # of names that have moved, and of what it takes for an old layout
        warnings.simplefilter("ignore")
        model = MultiVectorEncoder(str(folder), device="cpu")
        found = getattr(model, call)(texts, batch_size=1)
    return [np.asarray(vectors) for vectors in found]


def assert_same(found: list[NDArray[np.float32]], reference: list[NDArray[np.float32]]) -> None:
    assert [vectors.shape for vectors in found] == [vectors.shape for vectors in reference]
    for one, other in zip(found, reference, strict=True):
        assert np.abs(one - other).max() <= TOLERANCE


@pytest.fixture(scope="module")
def bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone(minilm, tmp_path_factory.mktemp("late") / "bert")


@pytest.mark.slow
@pytest.mark.parametrize("make", [modern, pylate, stanford])
def test_documents_and_queries_of_each_layout(bert: Path, tmp_path: Path, make: Make) -> None:
    folder = make(bert, tmp_path / "model")
    _, recipe = layout(folder)
    assert (recipe.pooling, recipe.dim, recipe.normalize) == ((Pooling.MULTI_VECTOR,), DIM, True)
    assert_same(documents(folder, TEXTS), expected(folder, TEXTS, "encode_document"))
    assert_same(queries(folder, QUERIES), expected(folder, QUERIES, "encode_query"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (modern, {"query_expansion": {"strategy": "min", "attend": True, "length": 12}}),
        (modern, {"query_expansion": None, "query_length": 10}),
        (pylate, {"do_query_expansion": False}),
        (pylate, {"attend_to_expansion_tokens": True, "skiplist_words": []}),
        (pylate, {"query_prefix": "[Q] ", "document_prefix": "[D] ", "prompts": {"document": "text: "}}),
        (stanford, {"attend_to_mask_tokens": True, "mask_punctuation": False}),
        (stanford, {"query_token_id": "[unused7]", "doc_token_id": "[unused8]", "query_maxlen": None, "doc_maxlen": None}),
    ],
)
def test_what_the_files_say_of_lengths_markers_and_expansion(
    bert: Path, tmp_path: Path, make: Make, settings: dict[str, Any]
) -> None:
    folder = make(bert, tmp_path / "model", **settings)
    longest = {"max_tokens": 128} if settings.get("doc_maxlen", 1) is None else {}
    assert_same(documents(folder, TEXTS, **longest), expected(folder, TEXTS, "encode_document"))
    assert_same(queries(folder, QUERIES, **longest), expected(folder, QUERIES, "encode_query"))


@pytest.mark.slow
def test_the_strings_beside_the_vectors_are_those_that_count(bert: Path, tmp_path: Path) -> None:
    files, recipe = layout(pylate(bert, tmp_path / "model"))
    tokenizer = TextTokenizer(files.folder, recipe)
    tokens = tokenizer.tokenize(["snow, ice."])
    assert tokens.skipped is not None
    counted = tokenizer.strings(tokens.input_ids[~tokens.skipped])
    assert counted == ["[CLS]", "[unused1]", "snow", "ice", "[SEP]"]
    assert tokens.counted_offsets.tolist() == [0, 5]
    assert tokens.num_tokens.tolist() == [7], "the model is given all of them"


def test_what_a_late_interaction_model_has_not(bert: Path, tmp_path: Path) -> None:
    folder = pylate(bert, tmp_path / "model")
    for settings, named in (
        ({"pooling": "mean"}, "model.pooling=mean"),
        ({"long_text": "mean_of_chunks"}, "model.long_text=mean_of_chunks"),
        ({"long_text": "late_chunks"}, "model.long_text=late_chunks"),
    ):
        with pytest.raises(UsageError, match=named):
            layout(folder, **settings)
    with pytest.raises(UsageError, match=r"model\.pooling=multi_vector: .* no projection"):
        layout(bert, pooling="multi_vector", max_tokens=64)
    odd = copy_model(folder, tmp_path / "odd")
    edit_json(odd / "config_sentence_transformers.json", query_length="long")
    with pytest.raises(UsageError, match=r"query_length must be a number of tokens"):
        layout(odd)
    pooled = modern_with(bert, tmp_path / "pooled", "HierarchicalTokenPooling")
    with pytest.raises(UsageError, match=r"HierarchicalTokenPooling is not supported"):
        layout(pooled)


def modern_with(bert: Path, target: Path, kind: str) -> Path:
    """A module more, behind the others."""
    folder = modern(bert, target)
    listed = json.loads((folder / "modules.json").read_text())
    place = "sentence_transformers.multi_vector_encoder.modules.token_pooling"
    listed.append({"idx": 4, "name": "4", "path": f"4_{kind}", "type": f"{place}.{kind}"})
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder

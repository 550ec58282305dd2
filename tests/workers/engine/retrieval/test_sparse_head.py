"""Sparse vectors against sentence-transformers' own SparseEncoder, from the layouts that it writes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.workers.models import TEXTS, build, copy_model, edit_json, layout
from tests.workers.sparse_models import masked_lm, sparse_encoder
from workers.engine.device.overflow import spliced
from workers.engine.encoder import Encoder
from workers.engine.retrieval.sparse_head import SLICE_LOGITS, SparseRows, kept
from workers.errors import UsageError
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import EncodedTexts
from workers.table.sparse import dense_of

TOLERANCE = 1e-5


def vectors_of(tokenizer: TextTokenizer, encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """[texts, vocabulary]"""
    encoded = encoder.encode(tokenizer.tokenize(texts))
    assert encoded.offsets is not None
    assert encoded.indices is not None
    return dense_of(encoded.vectors[:, 0], encoded.indices, np.diff(encoded.offsets), encoder.dim)


def expected(folder: Path, texts: list[str], call: str = "encode_document") -> NDArray[np.float32]:
    from sentence_transformers import SparseEncoder

    with warnings.catch_warnings():  # of names that have moved
        warnings.simplefilter("ignore")
        model = SparseEncoder(str(folder), device="cpu")
    found: NDArray[np.float32] = getattr(model, call)(texts, convert_to_sparse_tensor=False, batch_size=1).numpy()
    return found


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sparse")
    return sparse_encoder(masked_lm(minilm, place / "mlm"), place / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "strategy", "activation"),
    [
        ("bert", "max", "relu"),
        ("distilbert", "sum", "relu"),
        ("mpnet", "max", "log1p_relu"),
        ("roberta", "max", "relu"),
        ("electra", "sum", "log1p_relu"),
        ("modernbert", "max", "relu"),
    ],
)
def test_equal_to_sentence_transformers(minilm: Path, tmp_path: Path, family: str, strategy: str, activation: str) -> None:
    folder = sparse_encoder(masked_lm(minilm, tmp_path / "mlm", family), tmp_path / "model", strategy, activation)
    texts = TEXTS[:6]
    found, reference = vectors_of(*build(folder), texts), expected(folder, texts)
    assert found.shape == reference.shape == (len(texts), 30522)
    assert (reference > 0).any(axis=1).all()
    assert (reference == 0).any(axis=1).all()
    assert np.abs(found - reference).max() <= TOLERANCE


@pytest.mark.slow
def test_the_largest_weights_are_kept(folder: Path, minilm: Path, tmp_path: Path) -> None:
    """By the model's own max_active_dims, or by the setting."""
    few = sparse_encoder(masked_lm(minilm, tmp_path / "mlm"), tmp_path / "model", max_active_dims=40)
    reference = expected(few, TEXTS[:6])
    assert ((reference > 0).sum(axis=1) == 40).all()
    assert np.abs(vectors_of(*build(few), TEXTS[:6]) - reference).max() <= TOLERANCE
    assert np.abs(vectors_of(*build(folder, sparse_top=40), TEXTS[:6]) - reference).max() <= TOLERANCE
    assert (vectors_of(*build(few, sparse_top=None), TEXTS[:6]) > 0).sum() > 6 * 40


@pytest.mark.slow
def test_layouts_of_earlier_versions_and_none(folder: Path, tmp_path: Path) -> None:
    """sentence-transformers 5.0 wrote MLMTransformer; a masked language model without modules.json is asked for by name."""
    reference = expected(folder, TEXTS[:6])
    old = copy_model(folder, tmp_path / "old")
    listed = json.loads((old / "modules.json").read_text())
    for entry, name in zip(listed, ("MLMTransformer", "SpladePooling"), strict=True):
        entry["type"] = f"sentence_transformers.sparse_encoder.models.{name}"
    (old / "modules.json").write_text(json.dumps(listed))
    (old / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    assert np.abs(expected(old, TEXTS[:6]) - reference).max() <= TOLERANCE
    assert np.abs(vectors_of(*build(old), TEXTS[:6]) - reference).max() <= TOLERANCE
    bare = copy_model(folder, tmp_path / "bare")
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (bare / name).unlink()
    assert np.abs(vectors_of(*build(bare, pooling="sparse", max_tokens=64), TEXTS[:6]) - reference).max() <= TOLERANCE


@pytest.mark.slow
def test_prompts_of_documents_and_queries(folder: Path, tmp_path: Path) -> None:
    named = copy_model(folder, tmp_path / "prompts")
    edit_json(named / "config_sentence_transformers.json", prompts={"query": "find: ", "document": "text: "})
    assert np.abs(vectors_of(*build(named), TEXTS[:2]) - expected(named, TEXTS[:2])).max() <= TOLERANCE
    query = vectors_of(*build(named, prompt="find: "), TEXTS[:2])
    assert np.abs(query - expected(named, TEXTS[:2], "encode_query")).max() <= TOLERANCE


@pytest.mark.slow
def test_batches_and_slices_do_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, encoder = build(folder, batch_tokens=64)
    once = vectors_of(tokenizer, encoder, TEXTS)
    encoder.batch_tokens = 4096
    monkeypatch.setitem(SLICE_LOGITS, "cpu", 30522 * 70)
    assert np.abs(vectors_of(tokenizer, encoder, TEXTS) - once).max() <= TOLERANCE


@pytest.mark.slow
def test_a_text_that_the_model_refuses_has_one_entry_that_is_nan(folder: Path) -> None:
    tokenizer, encoder = build(folder)
    tokens = tokenizer.tokenize(TEXTS[:3])
    tokens.input_ids[tokens.offsets[1]] = 40_000
    encoded = encoder.encode(tokens)
    assert encoded.offsets is not None
    assert list(encoded.refused) == [1]
    assert np.diff(encoded.offsets)[1] == 1
    assert np.isnan(encoded.vectors[encoded.offsets[1], 0])
    assert np.isfinite(np.delete(encoded.vectors[:, 0], encoded.offsets[1])).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"normalize": True}, "model.normalize=True"),
        ({"truncate_dim": 8}, "model.truncate_dim=8"),
        ({"long_text": "mean_of_chunks"}, "model.long_text=mean_of_chunks"),
        ({"long_text": "late_chunks"}, "model.long_text=late_chunks"),
        ({"pooling": "mean"}, "model.pooling=mean"),
    ],
)
def test_settings_that_a_sparse_vector_has_not(folder: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        layout(folder, **settings)


def test_models_that_have_no_sparse_vectors(folder: Path, minilm: Path, small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.sparse_top=9: .* dense"):
        layout(minilm, sparse_top=9)
    with pytest.raises(UsageError, match=r"SpladePooling module"):
        layout(minilm, pooling="sparse")
    with pytest.raises(UsageError, match=r"no weights cls\.predictions"):
        layout(small_model, pooling="sparse", max_tokens=64)
    odd = copy_model(folder, tmp_path / "odd")
    edit_json(odd / "1_SpladePooling" / "config.json", pooling_strategy="min")
    with pytest.raises(UsageError, match=r"pooling_strategy 'min' is not known \(known: max, sum\)"):
        layout(odd)


def test_of_equal_weights_the_lower_index_is_kept() -> None:
    dense = np.array([[0, 3, 1, 1, 2], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)
    found = kept(dense, 3)
    assert found.counts.tolist() == [3, 0, 1]
    assert found.indices.tolist() == [1, 2, 4, 0]
    assert found.weights.tolist() == [3, 1, 2, 1]
    assert kept(dense, None).indices.tolist() == [1, 2, 3, 4, 0]
    one = kept(np.array([[4, np.nan, 9, 8]], np.float32), 2)
    assert (one.indices.tolist(), np.isnan(one.weights).tolist()) == ([0, 1], [False, True]), "what is not finite stays"
    spoilt = kept(np.full((1, 5), np.nan, np.float32), 2)
    assert (spoilt.counts.tolist(), np.isnan(spoilt.weights).all()) == ([2], True)


def test_rows_come_in_any_order_and_may_be_missing() -> None:
    rows = SparseRows(4, None)
    rows.add(torch.tensor([[0.0, 5.0, 6.0], [7.0, 0.0, 0.0]]), np.array([3, 1]))
    rows.add(torch.tensor([[0.0, 0.0, 0.0]]), np.array([2]))
    weights, indices, offsets = rows.all()
    assert offsets.tolist() == [0, 1, 2, 2, 4]
    assert np.isnan(weights[0])
    assert (weights[1:].tolist(), indices.tolist()) == ([7, 5, 6], [0, 0, 1, 2])


def test_texts_embedded_again_take_the_place_of_theirs() -> None:
    def encoded(weights: list[float], indices: list[int], offsets: list[int]) -> EncodedTexts:
        column = np.array(weights, np.float32)[:, None]
        return EncodedTexts(column, np.array(offsets), 0, {}, indices=np.array(indices, np.int32))

    before = encoded([1, 2, np.nan, 4], [3, 4, 0, 9], [0, 2, 3, 4])
    found = spliced(before, encoded([5, 6, 7], [1, 2, 3], [0, 3]), np.array([False, True, False]))
    assert found.vectors[:, 0].tolist() == [1, 2, 5, 6, 7, 4]
    assert found.indices is not None
    assert found.indices.tolist() == [3, 4, 1, 2, 3, 9]
    assert found.offsets is not None
    assert found.offsets.tolist() == [0, 2, 5, 6]

"""Every pooling and every long-text mode against a reference that shares no code with the product.

The reference is plain transformers, one text at a time and unpadded, hidden states widened to float64 before any sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from tests.workers.models import PASSAGE, TEXTS, build, copy_model, edit_json

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
MAX_TOKENS, OVERLAP = 64, 16
Vector = NDArray[np.float64]


class Reference:
    """Naive on purpose: a loop over texts, a loop over chunks."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self._known: dict[tuple[int, ...], tuple[list[Vector], Vector]] = {}

    def states(self, ids: list[int]) -> tuple[list[Vector], Vector]:
        """Hidden states [tokens, size] of every layer, and the pooler's output; kept, as all poolings see the same texts."""
        if (known := self._known.get(tuple(ids))) is None:
            known = self._known[tuple(ids)] = self._computed(ids)
        return known

    def _computed(self, ids: list[int]) -> tuple[list[Vector], Vector]:
        with torch.no_grad():
            output = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        return [layer[0].double().numpy() for layer in output.hidden_states], output.pooler_output[0].double().numpy()

    def pooled(self, ids: list[int], pooling: str, skip: int = 0) -> Vector:
        layers, pooler = self.states(ids)
        last = layers[-1][skip:]
        match pooling:
            case "cls":
                return last[0]
            case "mean":
                return last.sum(axis=0) / len(last)
            case "max":
                return last.max(axis=0)
            case "mean_sqrt_len":
                return last.sum(axis=0) / len(last) ** 0.5
            case "weighted_mean":
                weights = np.arange(1 + skip, len(last) + skip + 1, dtype=np.float64)
                return (last * weights[:, None]).sum(axis=0) / weights.sum()
            case "last_token":
                return last[-1]
            case "pooler":
                return pooler
            case "last4_mean":
                return sum(layer.mean(axis=0) for layer in layers[-4:]) / 4
            case "last4_concat":
                return np.concatenate(
                    [layers[-1].mean(axis=0), layers[-2].mean(axis=0), layers[-3].mean(axis=0), layers[-4].mean(axis=0)]
                )
        raise AssertionError(pooling)

    def truncated(self, text: str, max_tokens: int = MAX_TOKENS) -> list[int]:
        return list(self.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"])

    def chunks(self, text: str) -> list[tuple[list[int], int, int]]:
        """(ids, first character, last character + 1) of each window."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = found["input_ids"], found["offset_mapping"]
        capacity = MAX_TOKENS - 2
        windows, start = [], 0
        while True:
            piece, where = ids[start : start + capacity], spans[start : start + capacity]
            whole = [self.tokenizer.cls_token_id, *piece, self.tokenizer.sep_token_id]
            end, behind = where[-1][1] if where else 0, spans[start + capacity : start + capacity + 1]
            # characters behind it that are no tokens (accents, control characters) belong to the window
            end += len(text[end : behind[0][0] if behind else len(text)].rstrip(" \n"))
            windows.append((whole, where[0][0] if where else 0, end))
            if start + capacity >= len(ids):
                return windows
            start += capacity - OVERLAP


@pytest.fixture(scope="module")
def reference(minilm: Path) -> Reference:
    return Reference(minilm)


def unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


POOLINGS = ["cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token", "pooler", "last4_mean", "last4_concat"]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling(minilm: Path, reference: Reference, pooling: str) -> None:
    tokenizer, encoder = build(minilm, pooling=pooling, normalize=False, max_tokens=MAX_TOKENS)
    encoded = encoder.encode(tokenizer.tokenize(TEXTS))
    expected = np.stack([reference.pooled(reference.truncated(text), pooling) for text in TEXTS])
    assert encoded.vectors.shape == expected.shape == (len(TEXTS), encoder.dim)
    assert encoded.vectors.dtype == np.float32
    assert np.abs(encoded.vectors - expected).max() <= TOLERANCE


def test_default_is_the_models_own_layout(minilm: Path, reference: Reference) -> None:
    """Mean, 256 tokens, unit length, from modules.json; and the same as sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    tokenizer, encoder = build(minilm)
    vectors = encoder.encode(tokenizer.tokenize(TEXTS)).vectors
    expected = np.stack([unit(reference.pooled(reference.truncated(text, 256), "mean")) for text in TEXTS])
    assert np.abs(vectors - expected).max() <= TOLERANCE
    theirs = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
    assert (vectors * theirs).sum(axis=1).min() >= 0.9999


def test_tokens(minilm: Path, reference: Reference) -> None:
    tokenizer, encoder = build(minilm, pooling="tokens", normalize=False, max_tokens=MAX_TOKENS)
    tokens = tokenizer.tokenize(TEXTS)
    encoded = encoder.encode(tokens)
    assert encoded.offsets is not None
    assert encoded.vectors.shape == (len(tokens.input_ids), 384)
    for row, text in enumerate(TEXTS):
        ids = reference.truncated(text)
        start, stop = encoded.offsets[row : row + 2]
        assert tokens.input_ids[start:stop].tolist() == ids
        assert tokenizer.strings(tokens.input_ids[start:stop]) == reference.tokenizer.convert_ids_to_tokens(ids)
        assert np.abs(encoded.vectors[start:stop] - reference.states(ids)[0][-1]).max() <= TOLERANCE


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_chunks(minilm: Path, reference: Reference, pooling: str) -> None:
    settings: dict[str, Any] = {"long_text": "chunks", "chunk_overlap": OVERLAP, "max_tokens": MAX_TOKENS}
    tokenizer, encoder = build(minilm, pooling=pooling, normalize=True, **settings)
    tokens = tokenizer.tokenize(TEXTS)
    expected = [(row, *window) for row, text in enumerate(TEXTS) for window in reference.chunks(text)]
    assert len(expected) > 2 * len(TEXTS), "the texts are too short to test chunks"
    assert tokens.chunk_start is not None
    assert tokens.chunk_end is not None
    found = list(zip(tokens.document, tokens.chunk_start, tokens.chunk_end, strict=True))
    assert found == [(row, start, stop) for row, _, start, stop in expected]
    vectors = encoder.encode(tokens).vectors
    assert np.abs(vectors - np.stack([unit(reference.pooled(ids, pooling)) for _, ids, _, _ in expected])).max() <= TOLERANCE


@pytest.mark.parametrize(("pooling", "normalize", "dim"), [("mean", True, None), ("max", False, None), ("mean", True, 128)])
def test_mean_of_chunks(minilm: Path, reference: Reference, pooling: str, normalize: bool, dim: int | None) -> None:
    """The weighted mean of raw chunk vectors, then cut to truncate_dim, then unit length."""
    settings: dict[str, Any] = {"long_text": "mean_of_chunks", "chunk_overlap": OVERLAP, "max_tokens": MAX_TOKENS}
    tokenizer, encoder = build(minilm, pooling=pooling, normalize=normalize, truncate_dim=dim, **settings)
    expected = []
    for text in TEXTS:
        chunks = [ids for ids, _, _ in reference.chunks(text)]
        vector = sum(len(ids) * reference.pooled(ids, pooling) for ids in chunks) / sum(len(ids) for ids in chunks)
        expected.append(unit(vector[:dim]) if normalize else vector[:dim])
    vectors = encoder.encode(tokenizer.tokenize(TEXTS)).vectors
    assert vectors.shape == (len(TEXTS), dim or 384)
    assert np.abs(vectors - np.stack(expected)).max() <= TOLERANCE


def test_truncate_dim_comes_before_unit_length(minilm: Path, reference: Reference) -> None:
    tokenizer, encoder = build(minilm, truncate_dim=100, max_tokens=MAX_TOKENS)
    vectors = encoder.encode(tokenizer.tokenize(TEXTS)).vectors
    expected = np.stack([unit(reference.pooled(reference.truncated(text), "mean")[:100]) for text in TEXTS])
    assert encoder.dim == 100
    assert np.abs(vectors - expected).max() <= TOLERANCE


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weighted_mean"])
def test_prompt(minilm: Path, reference: Reference, tmp_path: Path, pooling: str, include_prompt: bool) -> None:
    folder = copy_model(minilm, tmp_path / "model")
    edit_json(folder / "1_Pooling/config.json", include_prompt=include_prompt)
    prompt = "Represent the news article: "
    texts = [text for text in TEXTS if text.isprintable()]
    tokenizer, encoder = build(folder, prompt=prompt, pooling=pooling, max_tokens=MAX_TOKENS)
    vectors = encoder.encode(tokenizer.tokenize(texts)).vectors
    skip = 0 if include_prompt else len(reference.tokenizer(prompt)["input_ids"]) - 1
    expected = np.stack([unit(reference.pooled(reference.truncated(prompt + text), pooling, skip)) for text in texts])
    assert np.abs(vectors - expected).max() <= TOLERANCE


def test_prompt_is_repeated_in_every_chunk(minilm: Path, reference: Reference) -> None:
    prompt = "passage: "
    settings: dict[str, Any] = {"long_text": "chunks", "chunk_overlap": OVERLAP, "max_tokens": MAX_TOKENS}
    tokenizer, encoder = build(minilm, prompt=prompt, **settings)
    text = PASSAGE * 3
    tokens = tokenizer.tokenize([text])
    front = reference.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    content = reference.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    capacity = MAX_TOKENS - 2 - len(front)
    expected, start = [], 0
    assert tokens.chunk_start is not None
    for row, (first, last) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        window = content["input_ids"][start : start + capacity]
        ids = [101, *front, *window, 102]
        assert tokens.input_ids[first:last].tolist() == ids
        assert tokens.chunk_start[row] == content["offset_mapping"][start][0]
        expected.append(unit(reference.pooled(ids, "mean")))
        start += capacity - OVERLAP
    assert start + OVERLAP >= len(content["input_ids"]), "the last chunk does not reach the end"
    assert np.abs(encoder.encode(tokens).vectors - np.stack(expected)).max() <= TOLERANCE

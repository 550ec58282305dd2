"""A text beyond float16's range gets the vector that transformers gives it in float32; what has none stays without."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.workers.families import random_model, sequences
from tests.workers.models import build
from workers.engine.device.overflow import Overflow
from workers.errors import PrecisionRefused, ReembedError, ReplicaError
from workers.records.tokens import EncodedTexts, TokenizedTexts, of_documents

HUGE = 29998  # a token of no golden text, whose embedding float16 cannot hold; `sequences` has ids up to 29,999
WORST = 29999  # one whose embedding float32 cannot hold either


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("overflow") / "model"
    model = random_model("Bert")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[HUGE] *= 1e7
        model.embeddings.word_embeddings.weight[WORST] *= 3e38
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((minilm / name).read_bytes())
    return target


def with_huge(places: dict[int, int], count: int = 12) -> TokenizedTexts:
    """Sequences, some of which have one of the tokens: sequence -> token."""
    tokens = sequences(count, 30)
    tokens.input_ids[np.isin(tokens.input_ids, (HUGE, WORST))] = 2000
    for row, token in places.items():
        tokens.input_ids[tokens.offsets[row] + 1] = token
    return tokens


def exact(folder: Path, tokens: TokenizedTexts) -> list[np.ndarray]:
    """[T, H] of each sequence, by transformers in float64, one at a time."""
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval().double()
    with torch.no_grad():
        return [
            model(input_ids=torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]).last_hidden_state[0].numpy()
            for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
        ]  # fmt: skip


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.slow
def test_the_vector_of_a_text_that_overflows(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, encoder = build(folder, precision="float16", batch_tokens=100)
    tokens = with_huge({3: HUGE, 7: HUGE, 9: WORST})
    raw = encoder._overflow
    encoder._overflow = None
    assert np.flatnonzero(np.isnan(encoder.encode(tokens).vectors).all(axis=1)).tolist() == [3, 7, 9], "nothing overflows"
    encoder._overflow = raw
    with caplog.at_level(logging.WARNING):
        encoded = encoder.encode(tokens)
        again = encoder.encode(tokens)
    expected = unit(np.stack([states.mean(axis=0) for states in exact(folder, tokens)]))
    fits = np.arange(12) != 9
    cosines = (encoded.vectors * expected).sum(axis=1)
    assert cosines[[3, 7]].min() > 1 - 1e-6, "not as in float32"
    assert cosines[fits].min() > 0.9999
    assert not np.isfinite(encoded.vectors[9]).any()
    assert encoded.overflowed == 2
    assert encoded.padded_tokens > len(tokens.input_ids)
    assert again.vectors.tobytes() == encoded.vectors.tobytes()
    assert caplog.text.count("texts overflow float16; they are embedded once more in float32") == 1
    assert encoder.tokens_done == 2 * len(tokens.input_ids) + len(tokens.input_ids)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"long_text": "chunks"}, {"long_text": "mean_of_chunks"}, {"pooling": "tokens"}])
def test_chunks_and_tokens(folder: Path, settings: dict[str, Any]) -> None:
    _, encoder = build(folder, precision="float16", batch_tokens=100, normalize=False, **settings)
    owners = np.repeat(np.arange(6, dtype=np.int32), 2)
    tokens = with_huge({3: HUGE})
    if "pooling" not in settings:
        lengths = tokens.lengths
        tokens = replace(
            tokens,
            document=owners,
            truncated=np.zeros(6, np.bool_),
            num_tokens=(lengths[::2] + lengths[1::2]).astype(np.int32),
        )
    encoded = encoder.encode(tokens)
    states = exact(folder, tokens)
    if "pooling" in settings:
        expected = np.concatenate(states)
    else:
        expected = np.stack([each.mean(axis=0) for each in states])
        if settings["long_text"] == "mean_of_chunks":
            weights = tokens.lengths[:, None].astype(np.float64)
            expected = np.add.reduceat(expected * weights, np.arange(0, 12, 2)) / np.add.reduceat(
                weights, np.arange(0, 12, 2)
            )
    assert encoded.vectors.shape == expected.shape
    assert encoded.overflowed == 1
    assert (unit(encoded.vectors) * unit(expected)).sum(axis=-1).min() > 0.9999


@pytest.mark.slow
def test_other_precisions_have_nothing_to_mend(folder: Path) -> None:
    for precision in ("float32", "bfloat16"):
        _, encoder = build(folder, precision=precision)
        encoded = encoder.encode(with_huge({3: HUGE}))
        assert np.isfinite(encoded.vectors).all()
        assert (encoded.overflowed, encoder._overflow) == (0, None)


class Asked:
    """An encoder in float32 that notes what it is asked for, and gives twos."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
        self.asked.append(tokens.lengths.tolist())
        return EncodedTexts(np.full((len(tokens.lengths), 4), 2, np.float32), None, 100)


def test_what_the_model_refused_is_not_tried_again() -> None:
    tokens, asked = sequences(4, 9), Asked()
    vectors = np.ones((4, 4), np.float32)
    vectors[[1, 2]] = np.nan
    mended = Overflow(lambda: asked, "cpu", chunked=False).mended(tokens, EncodedTexts(vectors, None, 50, {1: "refused"}))
    assert asked.asked == [[int(tokens.lengths[2])]]
    assert mended.vectors[:, 0].tolist()[0::2] == [1, 2]
    assert np.isnan(mended.vectors[1]).all()
    assert (mended.overflowed, mended.padded_tokens) == (1, 150)
    same = EncodedTexts(np.ones((4, 4), np.float32), None, 50)
    assert Overflow(lambda: asked, "cpu", chunked=False).mended(tokens, same) is same


def failing(error: ReembedError, tries: list[int]) -> Overflow:
    def load() -> Asked:
        tries.append(1)
        raise error

    return Overflow(load, "cuda", chunked=False)


OVERFLOWN = EncodedTexts(np.full((4, 4), np.inf, np.float32), None, 50)


def test_without_float32_they_stay_without_a_vector(caplog: pytest.LogCaptureFixture) -> None:
    full, tries = ReplicaError("cuda: out of memory"), list[int]()
    full.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    for error in (full, PrecisionRefused("cuda: golden texts in float32 have cosines of 0.9")):
        mender = failing(error, tries)
        for _ in range(2):
            assert mender.mended(sequences(4, 9), OVERFLOWN) is OVERFLOWN
    assert len(tries) == 2, "it was tried again"
    assert "cuda: texts that overflow float16 are quarantined, float32 is not possible: cuda: out of memory" in caplog.text


def test_a_device_that_fails_meanwhile_is_told() -> None:
    """Else its rows would be quarantined, which another replica can embed."""
    with pytest.raises(ReplicaError, match="illegal memory access"):
        failing(ReplicaError("cuda: an illegal memory access was encountered"), []).mended(sequences(4, 9), OVERFLOWN)


def test_documents_with_their_sequences() -> None:
    tokens = replace(
        sequences(6, 9), document=np.array([0, 0, 1, 2, 2, 2], np.int32), chunk_start=np.arange(6),
        chunk_end=np.arange(6) + 9, truncated=np.array([True, False, True]), num_tokens=np.array([5, 6, 7], np.int32),
    )  # fmt: skip
    part = of_documents(tokens, np.array([0, 2]))
    assert part.document.tolist() == [0, 0, 1, 1, 1]
    assert part.lengths.tolist() == tokens.lengths[[0, 1, 3, 4, 5]].tolist()
    assert part.input_ids.tolist() == [*tokens.input_ids[: tokens.offsets[2]], *tokens.input_ids[tokens.offsets[3] :]]
    assert (part.truncated.tolist(), part.num_tokens.tolist()) == ([True, True], [5, 7])
    assert part.chunk_start is not None
    assert part.chunk_start.tolist() == [0, 1, 3, 4, 5]

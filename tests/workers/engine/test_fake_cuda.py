"""The whole path of an encoder on CUDA, without a GPU: devices, types and shapes are right, and nothing waits.

Values are not computed; those of the same code are compared with transformers on the CPU, and by `pytest -m gpu` on a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.engine.fake_cuda import CUDA, FakeLane, fake_cuda, load_guard, on_fake_cuda
from tests.workers.families import FAMILIES, random_model, save_family, sequences
from tests.workers.models import build
from workers.config import BY_TOKEN, LongText, Pooling
from workers.engine.batches.plan import Layout
from workers.engine.device.in_flight import Pending, Ring
from workers.engine.device.overflow import Overflow
from workers.engine.encoder import Encoder
from workers.engine.heads import Heads
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import Forward, States
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded
from workers.records.tokens import EncodedTexts, PooledTokens, TokenizedTexts

HALVES = (torch.float16, torch.bfloat16)
PADDED = ("MPNet", "DebertaV2")
TOKENS = sequences(16, 60)
ATTENTION = ("aten._flash_attention_forward.default", "torch_attn._varlen_attn.default")
OTHERS = {Pooling.AUTO, Pooling.SPARSE, Pooling.POOLER, Pooling.MEAN_LSTM}  # SPARSE waits: its size is not known before
MODES = [mode for mode in Pooling if mode not in BY_TOKEN | OTHERS]
WIDTHS = {Pooling.LAST4_CONCAT: 128}  # of 32 in all others


@pytest.fixture(scope="module")
def loaded(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    load_guard()
    return build(save_family(minilm, tmp_path_factory.mktemp("tiny") / "model", FAMILIES["Bert"]))[1]


class Device:
    """An encoder whose device is a fake GPU."""

    def __init__(self, encoder: Encoder, forward: Forward, patch: pytest.MonkeyPatch, **recipe: Any) -> None:
        self.encoder, self.lane = encoder, FakeLane()
        ring, changed = Ring(self.lane), dataclasses.replace(encoder._recipe, **recipe)
        changes = {"device": CUDA, "_forward": forward, "batch_tokens": 300, "_landing": lambda: ring, "_recipe": changed}
        readout = {
            "_recipe": changed, "by_token": changed.pooling[0] in BY_TOKEN,
            "dim": sum(WIDTHS.get(mode, 32) for mode in changed.pooling),
        }  # fmt: skip
        for subject, values in ((encoder, changes), (encoder._readout, readout), (encoder._runner, {"_lowered": False})):
            for name, value in values.items():
                patch.setattr(subject, name, value)

    def submit(self, tokens: TokenizedTexts = TOKENS) -> Pending:
        """The call, of which nothing may wait for the device."""
        with fake_cuda() as self.ran:
            pending = self.encoder.submit(tokens)
        assert len(self.lane.copies) > 1, "one batch shows little"
        assert not pending.done()
        return pending

    @property
    def sent(self) -> tuple[int, set[int]]:
        """Vectors, and how many components they had."""
        return sum(copy.shape[0] for copy in self.lane.copies), {copy.shape[1] for copy in self.lane.copies}


def moved(family: str, dtype: torch.dtype) -> Any:
    return on_fake_cuda(random_model(family), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in PADDED])
def test_families_without_padding(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype) -> None:
    device = Device(loaded, Packed(moved(family, dtype)), monkeypatch, pooling=(Pooling.MEAN, Pooling.LAST4_MEAN))
    vectors = device.submit().result().vectors
    assert sum(device.ran[name] for name in ATTENTION) == 4 * len(device.lane.copies), "not the kernel over all lengths"
    assert device.sent == (16, {64})
    assert vectors.shape == (16, 64)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*PADDED, "Bert"])
def test_families_with_padding(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    device = Device(loaded, Padded(moved(family, torch.float32)), monkeypatch)
    assert device.submit().result().vectors.shape == (16, 32)


@pytest.mark.parametrize("prompt", [0, 2], ids=["", "without its prompt"])
@pytest.mark.parametrize("mode", MODES)
def test_poolings(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, mode: Pooling, prompt: int) -> None:
    forward = Packed(moved("DistilBert", torch.float16))
    device = Device(loaded, forward, monkeypatch, pooling=(mode,), include_prompt=not prompt)
    device.submit(dataclasses.replace(TOKENS, prompt_tokens=prompt))
    assert device.sent == (16, {WIDTHS.get(mode, 32)})


@pytest.mark.parametrize("long_text", [LongText.TRUNCATE, LongText.CHUNKS, LongText.MEAN_OF_CHUNKS])
def test_chunks(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, long_text: LongText) -> None:
    owners = np.repeat(np.arange(8, dtype=np.int32), 2)
    tokens = dataclasses.replace(TOKENS, document=owners, num_tokens=np.ones(8, np.int32))
    device = Device(loaded, Packed(moved("Bert", torch.float16)), monkeypatch, long_text=long_text)
    assert device.submit(tokens).result().vectors.shape == (8 if long_text is LongText.MEAN_OF_CHUNKS else 16, 32)


@pytest.mark.parametrize("mode", [Pooling.MEAN, Pooling.MAX, Pooling.WEIGHTED_MEAN, Pooling.LAST4_CONCAT])
def test_late_chunks(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, mode: Pooling) -> None:
    """Two rows of each input; nothing asks the device where they lie."""
    lengths = TOKENS.lengths
    first = np.stack([np.zeros_like(lengths), lengths // 2], axis=1).ravel()
    end = np.stack([lengths // 2, lengths], axis=1).ravel()
    tokens = dataclasses.replace(TOKENS, pooled=PooledTokens(np.repeat(np.arange(16), 2), first, end))
    device = Device(
        loaded, Packed(moved("Bert", torch.float16)), monkeypatch, pooling=(mode,), long_text=LongText.LATE_CHUNKS
    )
    assert device.submit(tokens).result().vectors.shape == (32, WIDTHS.get(mode, 32))


def test_vectors_of_every_token(loaded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(loaded, Packed(moved("Bert", torch.bfloat16)), monkeypatch, pooling=(Pooling.TOKENS,))
    encoded = device.submit().result()
    assert device.sent == (len(TOKENS.input_ids), {32})
    assert np.isfinite(encoded.vectors).all()


class Dense(torch.nn.Module):
    """As sentence-transformers' Dense."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(32, 48)

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (name,) = features.keys() & {"token_embeddings", "sentence_embedding"}
        return features | {name: self.linear(features[name])}


@pytest.mark.parametrize("place", ["_token_heads", "_vector_heads"])
def test_modules_around_the_model(loaded: Encoder, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    device = Device(loaded, Packed(moved("Bert", torch.float16)), monkeypatch)
    heads = Heads(Path(), (), torch.device("cpu"))
    heads._modules = [on_fake_cuda(Dense(), torch.float32), None]
    monkeypatch.setattr(loaded._readout, place, heads)
    monkeypatch.setattr(loaded._readout, "dim", 48)
    device.submit()
    assert device.sent == (16, {48})


class Full:
    """A device without memory for more than so many tokens."""

    name, layout = "full", Layout.PACKED

    def __init__(self, forward: Forward, limit: int) -> None:
        self._forward, self._limit = forward, limit
        self.tried: list[int] = []

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        self.tried.append(batch.tokens)
        if batch.tokens > self._limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._forward(batch, layers=layers)


def test_out_of_memory(loaded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are halved, the sequence that never fits is left out, and nothing waits for the device."""
    forward = Full(Packed(moved("DistilBert", torch.float16)), limit=59)  # the longest sequence has 60 tokens
    device, tokens = Device(loaded, forward, monkeypatch), sequences(5, 60)
    encoded = device.submit(tokens).result()
    assert dict(encoded.refused) == {0: "the device has too little memory for it"}
    assert np.isnan(encoded.vectors).all(axis=1).tolist() == [True] + 4 * [False]
    assert device.sent == (4, {32})
    assert loaded.batch_tokens < 100, "the lower budget was forgotten"


@pytest.mark.slow
def test_overflow_is_embedded_again_in_float32(loaded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an encoder like this one, in which attention goes by runs of equal lengths."""
    exact = copy.copy(loaded)
    second = Device(exact, Packed(moved("Bert", torch.float32)), monkeypatch)
    first = Device(loaded, Packed(moved("Bert", torch.float16)), monkeypatch)
    first.lane.value = np.nan

    class Exact:
        def encode(self, tokens: TokenizedTexts) -> EncodedTexts:
            return second.submit(tokens).result()

    monkeypatch.setattr(loaded, "_overflow", Overflow(Exact, "cuda", chunked=False))
    encoded = first.submit().result()
    assert not any(second.ran[name] for name in ATTENTION)
    assert second.sent == (16, {32})
    assert np.isfinite(encoded.vectors).all()
    assert encoded.overflowed == 16


@pytest.mark.slow
def test_two_calls_are_under_way(loaded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(loaded, Packed(moved("Bert", torch.float16)), monkeypatch)
    first, second = device.submit(), device.submit()
    assert not any(copy.waited for copy in device.lane.copies)
    assert first.result().vectors.shape == (16, 32)
    assert not second.done()
    assert [copy.waited for copy in device.lane.copies] == [True] * 2 + [False] * 2


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.cpu(),
        lambda x: x.item(),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).all()),
        lambda x: torch.zeros(3).to(CUDA),
        lambda x: torch.empty(3, device=CUDA).copy_(torch.zeros(3)),
        lambda x: torch.repeat_interleave(torch.empty(2, device=CUDA), torch.ones(2, dtype=torch.int64, device=CUDA)),
    ],
)
def test_what_waits_for_the_device_is_found(loaded: Encoder, waits: Any) -> None:
    with fake_cuda(), pytest.raises(RuntimeError):
        waits(torch.empty(1, device=CUDA))


def test_what_does_not_wait_is_let_through(loaded: Encoder) -> None:
    with fake_cuda() as ran:
        given = torch.empty(4, pin_memory=True).to(CUDA, non_blocking=True)
        assert given[torch.empty(2, dtype=torch.int64, device=CUDA)].device.type == "cuda"
        assert torch.empty(4, device=CUDA).copy_(torch.empty(4), non_blocking=True).device.type == "cuda"
    assert ran["aten._to_copy.default"] == 1

"""Which ways without padding are offered, in which order, on CPUs and on CUDA; and what is done when one fails there."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.families import random_model, sequences
from workers.config import Precision
from workers.engine import self_check
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels import triton_rows
from workers.engine.kernels.packing import pack
from workers.engine.self_check import SelfCheck
from workers.engine.ways import supported
from workers.engine.ways.compiled import Compiled
from workers.engine.ways.fused import Fused
from workers.engine.ways.fused_cuda import FusedCuda, FusedCudaEpilogue
from workers.engine.ways.interface import Forward
from workers.engine.ways.packed import Packed
from workers.engine.ways.supported import unpadded_ways
from workers.errors import PrecisionRefused, UsageError
from workers.records.tokens import TokenizedTexts

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GOLDEN = sequences(8, 20)
OURS = [FusedCudaEpilogue, FusedCuda]


@pytest.fixture(scope="module")
def bert() -> Checkpoint:
    return Checkpoint.of(random_model("Bert"))


@pytest.fixture
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rows, "why_unusable", lambda _: None)


@pytest.mark.parametrize(
    ("cuda", "precision", "compiled", "expected"),
    [
        (True, Precision.FLOAT16, False, [*OURS, Packed]),
        (True, Precision.BFLOAT16, True, [*OURS, Packed, Compiled]),
        (True, Precision.FLOAT8, True, [FusedCuda]),
        (True, Precision.FLOAT32, True, []),
        (False, Precision.FLOAT32, True, [Fused, Packed]),
        (False, Precision.FLOAT8, False, []),
    ],
)
@pytest.mark.usefixtures("with_triton")
def test_the_ways_of_bert(bert: Checkpoint, cuda: bool, precision: Precision, compiled: bool, expected: list[type]) -> None:
    assert list(unpadded_ways(bert, cuda=cuda, precision=precision, compiled=compiled)) == expected


@pytest.mark.usefixtures("with_triton")
def test_the_ways_of_other_families() -> None:
    other = Checkpoint.of(random_model("ModernBert"))
    assert list(unpadded_ways(other, cuda=True, precision=Precision.FLOAT16)) == [Packed]
    assert list(unpadded_ways(other, cuda=True, precision=Precision.FLOAT8)) == []


def test_without_triton(bert: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Said once, however often it is asked."""
    monkeypatch.setattr(triton_rows, "why_unusable", lambda _: "Triton cannot be imported (No module named 'triton')")
    supported._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert list(unpadded_ways(bert, cuda=True, precision=Precision.FLOAT16)) == [Packed]
    assert caplog.messages == ["without layers of our own on CUDA: Triton cannot be imported (No module named 'triton')"]


@torch.inference_mode()
def last_states(forward: Forward, golden: TokenizedTexts, _device: torch.device) -> np.ndarray:
    """The mean of each text's states, computed on the CPU whatever device is asked for."""
    vectors = []
    for row in range(len(golden.lengths)):
        vectors.append(forward(pack(golden, np.array([row]), CPU), layers=0).last_TH.float().mean(0).numpy())
    return np.array(vectors)


class OnCuda(SelfCheck):
    """The check of a CUDA device, which is computed on the CPU. `broken`: ways that fail on the device, and how."""

    broken: dict[type, Exception] = {}  # noqa: RUF012 - one a test
    built: list[Any]

    def _build(self, way: Any, precision: Precision) -> Forward:
        self.built = [*getattr(self, "built", []), (way, precision)]
        exact = self._forward(way, precision if precision is Precision.FLOAT8 else Precision.FLOAT32, CPU)
        if (error := self.broken.get(way)) is None:
            return exact

        class Broken:
            name, layout = exact.name, exact.layout

            def __call__(self, *_: Any, **__: Any) -> Any:
                raise error

        return Broken()


@pytest.mark.slow
@pytest.mark.usefixtures("with_triton")
def test_a_way_that_fails_on_the_device_gives_way_to_the_next(
    bert: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the same precision, and with words; a kernel may fail to be built with any exception."""
    monkeypatch.setattr(self_check, "fastest", lambda proved, *_: proved[0])  # nothing can be timed without the device
    check = OnCuda(bert, GOLDEN, Precision.AUTO, CUDA, last_states)
    assert check.choose_precision()[0] is Precision.FLOAT16
    assert check.built == [(way, Precision.FLOAT16) for way in (FusedCudaEpilogue, FusedCuda, Packed)]
    broken: dict[type, Exception] = {FusedCudaEpilogue: OSError("no C compiler"), FusedCuda: RuntimeError("no kernel image")}
    monkeypatch.setattr(OnCuda, "broken", broken)
    check = OnCuda(bert, GOLDEN, Precision.AUTO, CUDA, last_states)
    with caplog.at_level(logging.WARNING):
        precision, forward = check.choose_precision()
    assert (precision, type(forward)) == (Precision.FLOAT16, Packed)
    assert set(check._measured) == {FusedCuda, Packed}, "the two forms of GELU are one on the CPU"
    assert ["no C compiler" in caplog.messages[0], "no kernel image" in caplog.messages[1]] == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("with_triton")
def test_float8_is_refused_by_name_or_held_to_its_tolerance(bert: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(UsageError, match=r"float8: this GPU has compute capability 8.0, 8.9 is needed \(NVIDIA A100\)"):
        OnCuda(bert, GOLDEN, Precision.FLOAT8, CUDA, last_states).choose_precision()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    precision, forward = OnCuda(bert, GOLDEN, Precision.FLOAT8, CUDA, last_states).choose_precision()
    assert (precision, forward.name) == (Precision.FLOAT8, "fused float8")
    monkeypatch.setattr(self_check, "cosines", lambda *_: np.full(len(GOLDEN.lengths), 0.98))
    with pytest.raises(PrecisionRefused, match=r"float8 have cosines of 0.980000"):
        OnCuda(bert, GOLDEN, Precision.FLOAT8, CUDA, last_states).choose_precision()
    other = Checkpoint.of(random_model("ModernBert"))
    with pytest.raises(UsageError, match="only BERT"):
        OnCuda(other, GOLDEN, Precision.FLOAT8, CUDA, last_states).choose_precision()
    with pytest.raises(UsageError, match="float8 is for replicas on GPUs"):
        SelfCheck(bert, GOLDEN, Precision.FLOAT8, CPU, last_states).choose_precision()

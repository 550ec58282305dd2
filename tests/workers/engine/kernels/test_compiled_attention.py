"""The compiled kernel against softmax attention in float64; and what happens if it is missing or computes wrongly."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.test_attention import distance, naive
from workers.engine.kernels import compiled_attention
from workers.engine.kernels.attention import SCORE_UNIT
from workers.engine.kernels.compiled_attention import HEAD_MULTIPLE, attend, rotate
from workers.engine.kernels.relative import RelativeBias

HEADS = 3
needs_kernel = pytest.mark.skipif(attend(HEAD_MULTIPLE) is None, reason="no compiled attention here: see its log line")


@pytest.fixture
def forgotten() -> None:
    """What this process found out about the kernel is found out again, in the test and after it."""
    for remembered in (compiled_attention._library, compiled_attention._verified):
        remembered.cache_clear()
    yield
    for remembered in (compiled_attention._library, compiled_attention._verified):
        remembered.cache_clear()


def states(lengths: list[int], size: int = HEAD_MULTIPLE, reach: float = 1.0) -> tuple[Tensor, np.ndarray]:
    """[T + 5, 3, H, d] bfloat16, and the offsets of the sequences."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    random = torch.randn(int(offsets[-1]) + 5, 3, HEADS, size, generator=torch.Generator().manual_seed(1))
    return (random * reach).bfloat16(), offsets


def run(qkv: Tensor, offsets: np.ndarray, threads: int = 1) -> Tensor:
    kernel = attend(qkv.shape[-1])
    assert kernel is not None
    return kernel(qkv, offsets, threads, None)


def expected(qkv: Tensor, offsets: np.ndarray) -> Tensor:
    return naive(qkv[: offsets[-1]], offsets.tolist(), SCORE_UNIT).flatten(1)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="the processor does not multiply bfloat16")
@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler to build it with")
def test_a_compiler_at_hand_means_a_kernel() -> None:
    assert attend(HEAD_MULTIPLE) is not None
    assert attend(HEAD_MULTIPLE + 16) is None


@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize("size", [32, 64, 96, 128])
@pytest.mark.parametrize("reach", [0.1, 1.0, 4.0])
def test_every_length_gives_softmax_attention(size: int, reach: float) -> None:
    qkv, offsets = states([*range(1, 70), 96, 97, 511, 512, 0, 1300], size, reach)
    found = run(qkv, offsets)
    for start, stop in pairwise(offsets.tolist()):
        if stop > start:
            one = expected(qkv[start:stop], np.array([0, stop - start]))
            assert distance(found[start:stop], one) < 4e-3, stop - start  # bfloat16 keeps eight bits
    assert not found[offsets[-1] :].any()


@needs_kernel
@pytest.mark.parametrize("reach", [3, 128, 600])
def test_a_bias_by_distance(reach: int) -> None:
    qkv, offsets = states([*range(1, 50, 3), 96, 97, 513])
    table = 3 * torch.randn(HEADS, 2 * reach + 1, generator=torch.Generator().manual_seed(2))
    kernel = attend(HEAD_MULTIPLE)
    assert kernel is not None
    found = kernel(qkv, offsets, 1, RelativeBias(table))
    assert torch.equal(kernel(qkv, offsets, 3, RelativeBias(table)), found)

    def bias(query: Tensor, key: Tensor) -> Tensor:
        return table.double()[:, (key - query).clamp(-reach, reach) + reach]

    exact = naive(qkv[: offsets[-1]], offsets.tolist(), SCORE_UNIT, bias=bias).flatten(1)
    for start, stop in pairwise(offsets.tolist()):
        assert distance(found[start:stop], exact[start:stop]) < 4e-3, stop - start


@needs_kernel
@pytest.mark.parametrize("window", [1, 9, 65])
def test_a_window(window: int) -> None:
    qkv, offsets = states([1, 9, 64, 200])
    kernel = attend(HEAD_MULTIPLE)
    assert kernel is not None
    found = kernel(qkv, offsets, 1, RelativeBias.of_window(HEADS, window))[: offsets[-1]]
    exact = naive(qkv[: offsets[-1]], offsets.tolist(), SCORE_UNIT, lambda i, j: (i - j).abs() < window).flatten(1)
    assert distance(found, exact) < 4e-3


@needs_kernel
@pytest.mark.parametrize("size", [32, 64, 128])
def test_rotary_positions(size: int) -> None:
    """Against the rotation of pairs as complex numbers, in float64; values and rows behind the last angle stay."""
    qkv, _ = states([9], size)
    angles = 10 * torch.rand(9, size // 2, generator=torch.Generator().manual_seed(3))
    before = qkv.double()
    assert rotate(qkv, angles.cos(), angles.sin())
    low, high = before[:9, :2].chunk(2, dim=-1)
    turned = torch.complex(low, high) * torch.polar(torch.ones_like(angles.double()), angles.double())[:, None, None]
    expected = torch.cat([turned.real, turned.imag], -1)
    assert ((qkv[:9, :2].double() - expected).abs() <= 2**-8 * expected.abs() + 1e-5).all()
    assert torch.equal(qkv[:, 2].double(), before[:, 2])
    assert torch.equal(qkv[9:].double(), before[9:])
    assert not rotate(qkv.float(), angles.cos(), angles.sin())


@needs_kernel
def test_scores_of_any_size_neither_overflow_nor_vanish() -> None:
    qkv, offsets = states([33, 8], reach=60.0)  # scores beyond +-100,000: one key takes all
    assert distance(run(qkv, offsets)[: offsets[-1]], expected(qkv, offsets)) < 4e-3
    qkv[:, 0], qkv[:, 1] = 100.0, -100.0  # all scores far below zero, and equal: the mean of the values
    first = qkv[:33, 2].double().mean(0).flatten()
    torch.testing.assert_close(run(qkv, offsets)[:33].double(), first.expand(33, -1), rtol=0.01, atol=0.3)


@needs_kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_finite_is_seen_in_its_sequence_and_nowhere_else(bad: float, part: int) -> None:
    qkv, offsets = states([20, 30, 40])
    clean = run(qkv, offsets)
    qkv[25, part, 1, 3] = bad
    found = run(qkv, offsets)
    assert not torch.isfinite(found[25 if part == 0 else slice(20, 50)]).all()
    assert torch.equal(found[:20], clean[:20])
    assert torch.equal(found[50:], clean[50:])


@needs_kernel
def test_a_sequence_has_the_same_bits_in_any_company_and_by_any_number_of_threads() -> None:
    qkv, offsets = states([17, 64, 5, 130, 1, 48])
    together = run(qkv, offsets)
    for threads in (2, 3, 16):
        assert torch.equal(run(qkv, offsets, threads), together)
    for start, stop in pairwise(offsets.tolist()):
        assert torch.equal(run(qkv[start:stop], np.array([0, stop - start])), together[start:stop])
    assert run(qkv[:0], np.zeros(1, np.int64), 2).shape == (0, HEADS * HEAD_MULTIPLE)


@needs_kernel
def test_a_kernel_that_computes_wrongly_is_not_used(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = compiled_attention._library()

    class Rolled:
        """Every sequence sees one position of its neighbour."""

        def reembed_attend(self, qkv: int, out: int, borders: int, *rest: int) -> int:
            offsets = (ctypes.c_int32 * (rest[0] + 1)).from_address(borders)
            shifted = (ctypes.c_int32 * (rest[0] + 1))(offsets[0], *(border + 1 for border in offsets[1:]))
            return int(library.reembed_attend(qkv, out, ctypes.addressof(shifted), *rest))

    monkeypatch.setattr(compiled_attention, "_library", Rolled)
    assert attend(HEAD_MULTIPLE) is None
    assert "the compiled kernel is off by" in caplog.text


def test_without_the_extension_there_is_no_kernel_and_no_error(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with caplog.at_level(logging.INFO):
        assert attend(HEAD_MULTIPLE) is None
    assert "not built; install with a C compiler at hand" in caplog.text

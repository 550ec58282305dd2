"""What lies between 8-bit products, compiled and by torch's operators, against float64; and what happens without it."""

from __future__ import annotations

import logging
import math
import shutil

import pytest
import torch
from torch import Tensor

from workers.engine.kernels import rowwise
from workers.engine.kernels.linear import split_of
from workers.engine.kernels.rowwise import Quantizer, RowNorm, Split, activate, add_norm, quantize

WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not rowwise._verified(), reason="not compiled here: see its log line")),
    False,
]
WHOLE = Split(0, *(torch.empty(0, dtype=dtype) for dtype in (torch.int32, torch.float32, torch.float32)))


@pytest.fixture(params=WAYS, ids=lambda compiled: "compiled" if compiled else "torch")
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(rowwise, "_usable", lambda _: None)
    return bool(request.param)


def rows(count: int, channels: int, reach: float = 3.0, seed: int = 1) -> Tensor:
    return (reach * torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))).bfloat16()


def levels(x: Tensor, to: Quantizer) -> Tensor:
    """In float64."""
    return ((x.double() * to.factors_I.double()).round() + to.zero).clamp(0, 255)


def off(computed: Tensor, exact: Tensor) -> float:
    assert computed.dtype is torch.uint8
    assert computed.shape == exact.shape
    return float((computed.double() - exact).abs().max())


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler to build it with")
def test_a_compiler_at_hand_means_compiled_functions() -> None:
    assert rowwise._verified()


@pytest.mark.parametrize("channels", [1, 15, 16, 33, 384])
def test_levels_are_rounded_and_limited(compiled: bool, channels: int) -> None:
    x, to = rows(7, channels), Quantizer(1 + 40 * torch.rand(channels), 100)
    x[0, 0], x[1, 0], x[2, 0] = math.inf, -math.inf, math.nan
    found = quantize(x, to)
    assert found[:2, 0].tolist() == [255, 0]
    x[:3, 0] = 0  # a level of NaN is any
    assert off(found[3:], levels(x[3:], to)) <= 1  # a product on a border, in float32
    assert float((found[3:].double() != levels(x[3:], to)).double().mean()) < 0.01


@pytest.mark.parametrize("channels", [5, 16, 70, 384])
def test_the_norm_of_a_sum(compiled: bool, channels: int) -> None:
    x, residual = rows(9, channels), rows(9, channels, 1.0, 2)
    norm = RowNorm(torch.rand(channels) + 0.5, torch.randn(channels), 1e-12)
    to = Quantizer(10 + 20 * torch.rand(channels), 128)
    exact = torch.nn.functional.layer_norm(
        x.double() + residual.double(), (channels,), norm.weight_I.double(), norm.bias_I.double(), norm.eps
    )
    out, eight = add_norm(x, residual, norm, to)
    assert out.dtype is torch.bfloat16
    assert float(((out.double() - exact).abs() / exact.abs().clamp(min=1e-3)).max()) <= 2**-8  # rounding to bfloat16
    assert off(eight, levels(exact, to)) <= 1
    alone, nothing = add_norm(x, residual, norm)
    assert torch.equal(alone, out)
    assert nothing.numel() == 0


def test_a_nan_stays_in_its_row(compiled: bool) -> None:
    x = rows(3, 40)
    x[1, 7] = math.nan
    out, _ = add_norm(x, rows(3, 40), RowNorm(torch.ones(40), torch.zeros(40), 1e-5), Quantizer(torch.ones(40), 0))
    assert torch.isnan(out).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("with_gelu", [True, False])
def test_gelu_is_exact_to_a_level(compiled: bool, with_gelu: bool) -> None:
    x = torch.linspace(-12, 12, 4096).bfloat16().view(8, 512)
    to = Quantizer(torch.full((512,), 9.7), 3)  # no ties
    exact = x.double() * 0.5 * (1 + torch.erf(x.double() / math.sqrt(2))) if with_gelu else x.double()
    split = Split(512, WHOLE.source_C, WHOLE.shift_C, WHOLE.share_C)
    found = activate(x, to, split, with_gelu=with_gelu)
    assert off(found, levels(exact, to)) <= 1
    assert float((found.double() != levels(exact, to)).double().mean()) < 0.005


def test_columns_of_a_loud_channel_add_up_to_it(compiled: bool) -> None:
    reach = torch.ones(50)
    reach[[3, 40]] = torch.tensor([4.0, 2.5])
    order, split = split_of(reach, 5)
    assert order.tolist() == [i for i in range(50) if i not in (3, 40)] + [3, 40]
    assert (split.quiet, split.source_C.tolist()) == (48, [0, 0, 0, 0, 1, 1, 1])  # a fourth of 4, a third of 2.5
    assert split.channels == 50
    assert split.order().tolist() == [*range(48), 48, 48, 48, 48, 49, 49, 49]
    x = rows(6, 50, 1.0) * reach[order].bfloat16()
    to = Quantizer(torch.full((50,), 30.0), 128)
    found = activate(x, to, split, with_gelu=False).double() - 128
    level = (x.double() * 30).round()
    assert torch.equal(found[:, 48:52].sum(1), level[:, 48])
    assert torch.equal(found[:, 52:].sum(1), level[:, 49])
    assert float(found[:, 48:52].amax(1).sub(found[:, 48:52].amin(1)).max()) <= 1  # and are alike


def test_rows_are_shared_among_threads() -> None:
    x, to = rows(61, 48), Quantizer(torch.full((48,), 20.0), 90)
    alone, threads = quantize(x, to), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(quantize(x, to), alone)
    finally:
        torch.set_num_threads(threads)


def test_functions_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = rowwise._quantize
    monkeypatch.setattr(rowwise, "_quantize", lambda library, x, to: whole(None, x, to) ^ (library is not None))
    rowwise._verified.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            usable = rowwise._verified()
    finally:
        rowwise._verified.cache_clear()
    assert not usable
    assert "torch's operators" in caplog.text

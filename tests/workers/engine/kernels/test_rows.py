"""Row kernels, by Triton's interpreter and in plain torch: against formulas in float64.

Triton interprets where TRITON_INTERPRET=1 is set before it is imported, so those cases run in a process of their own
(test_triton_interpreted), where Triton is installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from workers.engine.bert.weights import Norm
from workers.engine.kernels import torch_rows, triton_rows
from workers.engine.kernels.float8 import FLOAT8, Codes, Float8Linear

INTERPRETS = triton_rows.why_absent is None and os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETS, reason="run by test_triton_interpreted, in a process of its own")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; torch's wheels for CUDA bring it"
)
CPU = torch.device("cpu")
ROWS = [pytest.param(torch_rows, id="torch"), pytest.param(triton_rows, id="triton", marks=interpreted)]
TYPES = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}  # largest relative error: half a unit in the last place
WIDTHS = (24, 384)  # the second is no power of two, as MiniLM's


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator) + 0.5).to(dtype)


def norm_of(width: int, dtype: torch.dtype) -> Norm:
    return Norm(drawn(width, dtype=dtype, seed=7), drawn(width, dtype=dtype, seed=8), 1e-5)


def exact_norm(x: Tensor, norm: Norm) -> Tensor:
    return layer_norm(x.double(), x.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)


def close(found: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    assert found.dtype is dtype
    return bool(((found.double() - exact).abs() <= TYPES[dtype] * (1 + exact.abs())).all())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm_of_a_sum(rows: ModuleType, dtype: torch.dtype, width: int) -> None:
    if rows is torch_rows and dtype is not torch.float32:
        pytest.skip("torch rounds the sum first: it is used in float32 alone")
    x, residual, bias = drawn(5, width, dtype=dtype), drawn(5, width, dtype=dtype, seed=1), drawn(width, dtype=dtype, seed=2)
    norm = norm_of(width, dtype)
    exact = exact_norm(x.double() + bias.double() + residual.double(), norm)
    assert close(rows.add_norm(x, bias, residual, norm), exact, dtype)
    words, positions = drawn(11, width, dtype=dtype), drawn(9, width, dtype=dtype, seed=3)
    ids, places = torch.tensor([3, 10, 0, 3]), torch.tensor([0, 1, 2, 8])
    exact = exact_norm(words[ids].double() + positions[places].double(), norm)
    assert close(rows.embed_norm(ids, places, words, positions, norm), exact, dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_codes_with_the_layer_norm(rows: ModuleType) -> None:
    """They are made of the sums in float32; the states beside them are rounded to bfloat16."""
    x, residual = drawn(5, 96, dtype=torch.bfloat16), drawn(5, 96, dtype=torch.bfloat16, seed=1)
    bias, norm = drawn(96, dtype=torch.bfloat16, seed=2), norm_of(96, torch.bfloat16)
    exact = exact_norm(x.double() + bias.double() + residual.double(), norm)
    states, codes = rows.add_norm_codes(x, bias, residual, norm)
    assert close(states, exact, torch.bfloat16)
    assert_codes(codes, exact)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
def test_codes_of_an_activation(rows: ModuleType, activation: str) -> None:
    x = drawn(4, 96, dtype=torch.bfloat16)
    exact = {
        "none": x.double(), "gelu": gelu(x.double()), "gelu_tanh": gelu(x.double(), approximate="tanh"),
        "relu": x.double().relu(),
    }[activation]  # fmt: skip
    assert_codes(rows.codes(x, activation), exact)
    zeros = rows.codes(torch.zeros(2, 96, dtype=torch.bfloat16), activation)
    assert (zeros.values_TH.float() == 0).all()
    assert (zeros.scales_T1 > 0).all()


def assert_codes(codes: Codes, exact: Tensor) -> None:
    """The largest value of a row has the largest code, and each code is the nearest."""
    assert codes.values_TH.dtype is FLOAT8
    assert codes.scales_T1.shape == (len(exact), 1)
    largest = exact.abs().amax(1, keepdim=True)
    assert torch.allclose(codes.scales_T1.double() * 448, largest, rtol=1e-5)
    levels = (exact / largest * 448).float()
    nearest = levels.to(FLOAT8).float()
    # Triton's interpreter (3.6) rounds up what lies in the middle, and loses the carry to the next power of two.
    carried = (torch.log2(nearest.abs()) % 1 == 0) & (levels.abs() < nearest.abs()) & INTERPRETS
    unit = nearest.abs().clamp(min=2**-6) / 8  # levels that lie in the middle may go either way
    assert ((codes.values_TH.float() - nearest).abs() <= 1.01 * unit)[~carried].all()
    assert ((codes.values_TH.float() != nearest) & ~carried).sum() <= (12 if INTERPRETS else 2)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_means_of_segments(rows: ModuleType, dtype: torch.dtype) -> None:
    states = drawn(40, 200, dtype=dtype)
    starts, ends = torch.tensor([0, 1, 20, 23, 40]), torch.tensor([1, 20, 20, 40, 40])
    found = rows.segment_mean(states, starts, ends)
    assert found.dtype is torch.float32
    for mean, start, end in zip(found, starts.tolist(), ends.tolist(), strict=True):
        exact = states[start:end].double().mean(0) if end > start else torch.zeros(200, dtype=torch.float64)
        assert torch.allclose(mean.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    triton_rows.why_unusable.cache_clear()
    yield
    triton_rows.why_unusable.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_a_device_that_cannot_run_the_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rows, "why_absent", "Triton cannot be imported (No module named 'triton')")
    assert triton_rows.why_unusable(CPU) == triton_rows.why_absent
    monkeypatch.setattr(triton_rows, "why_absent", None)
    triton_rows.why_unusable.cache_clear()

    def failing(*_: Tensor) -> Tensor:
        raise OSError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(triton_rows, "segment_mean", failing)
    expected = "Triton's kernels cannot be run on cpu (OSError: Failed to find C compiler. Please specify via CC)"
    assert triton_rows.why_unusable(CPU) == expected
    triton_rows.why_unusable.cache_clear()
    monkeypatch.setattr(triton_rows, "segment_mean", lambda states, starts, _: states[starts])
    assert triton_rows.why_unusable(CPU) == "Triton's kernels compute wrong numbers on cpu"
    triton_rows.why_unusable.cache_clear()
    monkeypatch.setattr(triton_rows, "segment_mean", torch_rows.segment_mean)
    assert triton_rows.why_unusable(CPU) is None


def test_a_product_of_codes() -> None:
    """The same as the product of what the codes stand for; both operands within a sixteenth of their values."""
    weight, bias, x = drawn(32, 48), drawn(32, seed=1), drawn(7, 48, seed=2)
    codes = torch_rows.codes(x)
    found = Float8Linear(weight, bias, torch.device("cpu"))(codes)
    stored = torch_rows.codes(weight)
    decoded = [part.values_TH.double() * part.scales_T1.double() for part in (codes, stored)]
    assert close(found, decoded[0] @ decoded[1].T + bias.bfloat16().double(), torch.bfloat16)
    assert ((decoded[1] - weight.double()).abs() <= weight.double().abs() / 16 + 1e-3).all()
    with pytest.raises(ValueError, match="multiples of 16"):
        Float8Linear(drawn(32, 40), bias, torch.device("cpu"))


@pytest.mark.slow
@needs_triton
def test_triton_compiled_for_hopper() -> None:
    """The interpreter accepts what the compiler refuses. Fails if a kernel spills registers; 8-bit codes are converted."""
    command = [sys.executable, "-m", "benchmarks.triton_kernels"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    codes = [line for line in done.stdout.splitlines() if "codes" in line]
    assert len(codes) == 9
    assert all("e4m3" in line for line in codes)


@pytest.mark.slow
@needs_triton
def test_triton_interpreted() -> None:
    """The cases of this file and of ways/test_fused_cuda.py that need Triton."""
    files = ["tests/workers/engine/kernels/test_rows.py", "tests/workers/engine/ways/test_fused_cuda.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton and not test_triton", *files]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout

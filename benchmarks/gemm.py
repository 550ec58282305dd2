"""The peak rate of matrix products in a model's own shapes on this machine, with which an encoder is compared.

    peak = Peak(shape, "bfloat16", device);  peak.measure() -> FLOP a second, the best of several shapes

On a CPU through the product's own layers (oneDNN, weights laid out beforehand), on CUDA through torch.matmul. The data is
random, because zeros draw less power and run faster. The peak is measured repeatedly, in the same process as the encoder,
because clock rates and the load of neighbours change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.models import Shape
from workers.engine.kernels.linear import ActivationRange, Linear, QuantizedLinear

TOKENS = {"cpu": (2048, 4096), "cuda": (16384, 65536)}
SQUARE = {"cpu": 4096, "cuda": 8192}
LEAST_SECONDS = 0.1  # of each shape
SQUARE_BYTES = 1 << 30  # free memory below which the square product is left out


class Peak:
    """The products of one precision, prepared once."""

    def __init__(self, shape: Shape, precision: str, device: torch.device, *, square: bool = True) -> None:
        kind = device.type
        sizes = [(t, *io) for t in TOKENS[kind] for io in ((shape.hidden, shape.inner), (shape.inner, shape.hidden))]
        if square and _free_bytes(device) > SQUARE_BYTES:
            sizes.append((SQUARE[kind],) * 3)
        self._device = device
        self._products = [(2.0 * t * i * o, _product(t, i, o, precision, device)) for t, i, o in sizes]
        self.sizes = ["x".join(map(str, size)) for size in sizes]
        self.seen: list[float] = []
        self.shape_of_best = ""

    @torch.inference_mode()
    def measure(self) -> float:
        """FLOP a second, best of all shapes and repeats; remembered in `seen`."""
        rates = [flop / self._fastest(run) for flop, run in self._products]
        best = max(rates)
        if best >= max(self.seen, default=0.0):
            self.shape_of_best = self.sizes[rates.index(best)]
        self.seen.append(best)
        return best

    def _fastest(self, run: Callable[[], Any]) -> float:
        self._timed(run)
        seconds = [self._timed(run)]
        while sum(seconds) < LEAST_SECONDS or len(seconds) < 2:
            seconds.append(self._timed(run))
        return min(seconds)

    def _timed(self, run: Callable[[], Any]) -> float:
        if self._device.type != "cuda":
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        calls = 4  # a single one would be shorter than its launch
        torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        for _ in range(calls):
            run()
        torch.cuda.synchronize(self._device)
        return (time.perf_counter() - began) / calls


def _product(tokens: int, inputs: int, outputs: int, precision: str, device: torch.device) -> Callable[[], Any]:
    x, weight, bias = torch.randn(tokens, inputs), torch.randn(outputs, inputs) * inputs**-0.5, torch.randn(outputs)
    if device.type == "cuda":
        dtype = getattr(torch, precision)
        a, b = x.to(device, dtype), weight.t().to(device, dtype)
        out = torch.empty(tokens, outputs, device=device, dtype=dtype)
        return lambda: torch.matmul(a, b, out=out)
    if precision == "int8":
        layer = QuantizedLinear(weight, bias, ActivationRange(x.amin(0), x.amax(0)), smooth=False)
        eights = layer.quantize(x)
        return lambda: layer(eights)
    dense = Linear(weight, bias, getattr(torch, precision))
    rows = x.to(getattr(torch, precision))
    return lambda: dense(rows)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)

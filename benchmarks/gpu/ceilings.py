"""What the device can do at best: copies, and the matrix products of the models' own shapes.

    copy            device memory to device memory, in TB/s (read and written bytes)
    H2D, D2H        pinned and pageable, of a window's vectors, in ms
    products        each of a layer's four, in TFLOP/s: bare, with bias, with GELU in cuBLASLt's epilogue, GELU after it, FP8

Operands are random: zeros draw less power and run faster. The products of a model are [T, in] x [in, out].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import gelu

from benchmarks.gpu.device import CUDA, DEVICE, HALF, timed

SIZES = {"MiniLM": (384, 1536), "bert-base": (768, 3072), "bert-large": (1024, 4096)}  # hidden, inner
SMOKE_SIZES = {"tiny": (64, 128)}
TOKENS, WINDOW = 65536, 8192
_COPIED = 1 << 31  # bytes: far more than the second cache holds
_FLOAT8 = getattr(torch, "float8_e4m3fn", None)


@torch.inference_mode()
def ceilings(*, smoke: bool) -> Iterator[tuple[str, Any]]:
    """Section, about no model."""
    source = torch.empty((1 << 16 if smoke else _COPIED) // 2, dtype=torch.float16, device=DEVICE).normal_()
    target = torch.empty_like(source)
    copied = timed(functools.partial(target.copy_, source))
    yield "copy_TB_s", round(2 * source.nbytes / copied.whole / 1e12, 4)
    del source, target, copied
    yield from _transfers(64 if smoke else WINDOW)
    for name, (hidden, inner) in (SMOKE_SIZES if smoke else SIZES).items():
        shapes = {"qkv": (hidden, 3 * hidden), "out": (hidden, hidden), "up": (hidden, inner), "down": (inner, hidden)}
        for what, shape in shapes.items():
            yield f"{name} {what}", _products(16 if smoke else TOKENS, *shape, activated=what == "up")


def _transfers(rows: int) -> Iterator[tuple[str, Any]]:
    """A window's vectors in float32, and its token ids and positions (16 bytes a token) the other way."""
    for width in (384, 768, 1024):
        vectors = torch.randn(rows, width, device=DEVICE)
        found = {"pageable_ms": _ms(lambda vectors=vectors: vectors.cpu())}
        if CUDA:
            pinned = torch.empty(vectors.shape, pin_memory=True)
            found["pinned_ms"] = _ms(lambda v=vectors, p=pinned: p.copy_(v, non_blocking=True))
        yield f"D2H of {rows} x {width} float32", found
    ids = torch.zeros(2, rows * 8, dtype=torch.int64)
    found = {"pageable_ms": _ms(lambda: ids.to(DEVICE))}
    if CUDA:
        pinned_ids = ids.pin_memory()
        found["pinned_ms"] = _ms(lambda: pinned_ids.to(DEVICE, non_blocking=True))
    yield f"H2D of {ids.numel() * 8 >> 20} MiB", found


def _ms(call: Callable[[], Any]) -> float:
    return round(1e3 * timed(call).whole, 4)


def _products(tokens: int, inputs: int, outputs: int, *, activated: bool) -> dict[str, float | str]:
    """TFLOP/s by kind; a kind that the device or this torch does not have says why."""
    x, weight = (
        torch.randn(tokens, inputs, device=DEVICE, dtype=HALF),
        torch.randn(outputs, inputs, device=DEVICE, dtype=HALF),
    )
    bias = torch.randn(outputs, device=DEVICE, dtype=HALF)
    kinds: dict[str, Callable[[], Any]] = {
        "bare": lambda: x @ weight.t(),
        "bias": lambda: torch.addmm(bias, x, weight.t()),
    }
    if activated:
        kinds["bias, GELU in the epilogue"] = lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
        kinds["bias, then GELU"] = lambda: gelu(torch.addmm(bias, x, weight.t()))
    if _FLOAT8 is not None:
        x8, weight8, scale = x.to(_FLOAT8), weight.to(_FLOAT8), torch.ones((), device=DEVICE)
        rows, columns = torch.ones(tokens, 1, device=DEVICE), torch.ones(1, outputs, device=DEVICE)
        out = torch.bfloat16  # a scale a row has no other output
        kinds["FP8, a scale a tensor"] = lambda: torch._scaled_mm(x8, weight8.t(), scale, scale, out_dtype=out)
        kinds["FP8, a scale a tensor, fast sums"] = lambda: torch._scaled_mm(
            x8, weight8.t(), scale, scale, out_dtype=out, use_fast_accum=True
        )
        kinds["FP8, a scale a row"] = lambda: torch._scaled_mm(x8, weight8.t(), rows, columns, out_dtype=out)
        kinds["FP8, a scale a row, fast sums"] = lambda: torch._scaled_mm(
            x8, weight8.t(), rows, columns, out_dtype=out, use_fast_accum=True
        )
    found: dict[str, float | str] = {}
    for kind, call in kinds.items():
        try:
            found[kind] = round(2.0 * tokens * inputs * outputs / timed(call).whole / 1e12, 4)
        except (RuntimeError, ValueError) as error:
            found[kind] = f"not here: {str(error).strip().splitlines()[0][:120]}"
    return found

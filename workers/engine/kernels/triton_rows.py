"""Row kernels on CUDA, in Triton: what lies between the matrix products of an encoder layer, one pass over memory each.

    embed_norm       LayerNorm(words[id] + positions[place])
    add_norm         LayerNorm(x + bias + residual)
    add_norm_codes   the same, and its 8-bit codes for the next product
    codes            8-bit codes of activation(x)
    segment_mean     mean of the rows of each segment, in float32

Sums are taken in float32, whatever the type of the states. A program computes one row, or one segment's columns, alone, so
that a result depends on nothing else in the batch. torch_rows.py has the same functions in plain torch. torch's wheels for
CUDA bring Triton; without it this module can still be imported, and `why_absent` tells. With TRITON_INTERPRET=1 the kernels
run on a CPU.

Shapes: T tokens, H size of a row, V words, P positions, B segments.
"""
# mypy: disable-error-code="no-untyped-def"
# Triton compiles the kernels' annotations as well, and knows none but constexpr.

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.engine.kernels import torch_rows
from workers.engine.kernels.float8 import FLOAT8, LARGEST, LEAST_REACH, Codes
from workers.engine.kernels.torch_rows import Norm
from workers.errors import one_line

try:
    import triton
    import triton.language as tl

    why_absent: str | None = None
except ImportError as _error:  # torch's wheels for CPUs come without it
    triton, tl, why_absent = None, None, f"Triton cannot be imported ({_error})"

_SEGMENT_ROWS, _SEGMENT_COLUMNS, SEGMENT_WARPS = 16, 128, 4  # tile of segment_mean
_PER_THREAD = 8  # 16 bytes in half precision: one load
_MOST_WARPS = 16


def _kernel(function: Callable[..., None]) -> Any:
    # Ids and places are slices of one tensor (packing.py), so the alignment of one changes from batch to batch.
    return triton.jit(function, do_not_specialize_on_alignment=["ids", "places"]) if triton is not None else function


@_kernel
def _norm_row(
    v, weight, shift, out, codes, scales, row,
    H: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, CODES: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """LayerNorm of the row `v` (0 beyond H) into `out`; with CODES also its 8-bit codes and their scale."""
    c = tl.arange(0, BLOCK)
    inside = c < H
    centred = tl.where(inside, v - tl.sum(v, 0) / H, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / H + EPS)
    y = centred * inverse * tl.load(weight + c, inside, 0.0).to(tl.float32) + tl.load(shift + c, inside, 0.0).to(tl.float32)
    tl.store(out + row * H + c, y.to(out.dtype.element_ty), inside)
    if CODES:
        _store_codes(y, codes, scales, row, H, BLOCK, MOST, LEAST)


@_kernel
def _store_codes(y, codes, scales, row, H: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr):
    """The row `y` (0 beyond H) divided by its scale, so that its largest value becomes MOST."""
    c = tl.arange(0, BLOCK)
    scale = tl.maximum(tl.max(tl.abs(y), 0), LEAST) / MOST
    inside_range = tl.minimum(tl.maximum(y / scale, -MOST), MOST)
    tl.store(codes + row * H + c, inside_range.to(codes.dtype.element_ty), c < H)
    tl.store(scales + row, scale)


@_kernel
def _add_norm_kernel(
    x, bias, residual, weight, shift, out, codes, scales,
    H: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, CODES: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = c < H
    v = tl.load(x + row * H + c, inside, 0.0).to(tl.float32) + tl.load(bias + c, inside, 0.0).to(tl.float32)
    v += tl.load(residual + row * H + c, inside, 0.0).to(tl.float32)
    _norm_row(v, weight, shift, out, codes, scales, row, H, BLOCK, EPS, CODES, MOST, LEAST)


@_kernel
def _embed_norm_kernel(
    ids, places, words, positions, weight, shift, out,
    H: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = c < H
    v = tl.load(words + tl.load(ids + row) * H + c, inside, 0.0).to(tl.float32)
    v += tl.load(positions + tl.load(places + row) * H + c, inside, 0.0).to(tl.float32)
    _norm_row(v, weight, shift, out, out, out, row, H, BLOCK, EPS, False, 0.0, 0.0)


@_kernel
def _codes_kernel(
    x, codes, scales,
    H: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    y = tl.load(x + row * H + c, c < H, 0.0).to(tl.float32)
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.math.erf(y * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # 0.5 (1 + tanh(z)) = sigmoid(2 z), with z = sqrt(2 / pi) (y + 0.044715 y^3)
        y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    elif ACTIVATION == "relu":
        y = tl.maximum(y, 0.0)
    _store_codes(y, codes, scales, row, H, BLOCK, MOST, LEAST)


@_kernel
def _segment_mean_kernel(states, starts, ends, out, H: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    segment = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, end = tl.load(starts + segment), tl.load(ends + segment)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = start
    while first < end:  # not range(): Triton's interpreter takes no loaded number there
        rows = first + tl.arange(0, ROWS)
        inside = (rows < end)[:, None] & (c < H)[None, :]
        sums += tl.load(states + rows[:, None] * H + c[None, :], inside, 0.0).to(tl.float32)
        first += ROWS
    count = tl.maximum(end - start, 1).to(tl.float32)
    tl.store(out + segment * H + c, tl.sum(sums, 0) / count, c < H)


@functools.cache
def why_unusable(device: torch.device) -> str | None:
    """Why the kernels cannot be used on this CUDA device; None: one of them was built, run, and gave the right numbers.

    Triton calls a C compiler at its first kernel and writes to a cache folder, either of which a machine may lack.
    """
    if why_absent is not None:
        return why_absent
    states, starts, ends = torch.arange(96.0).view(12, 8), torch.tensor([0, 5]), torch.tensor([5, 12])
    try:
        found = segment_mean(states.to(device), starts.to(device), ends.to(device)).cpu()
    except Exception as error:  # noqa: BLE001 - of the compiler, the loader, the file system, the driver
        return f"Triton's kernels cannot be run on {device} ({type(error).__name__}: {one_line(error)})"
    if not torch.allclose(found, torch_rows.segment_mean(states, starts, ends)):
        return f"Triton's kernels compute wrong numbers on {device}"
    return None


def block_of(width: int) -> tuple[int, int]:
    """Elements of a row's block, a power of two, and the warps that compute it with 16-byte loads."""
    block = max(1 << (width - 1).bit_length(), 32 * _PER_THREAD)
    return block, min(block // (32 * _PER_THREAD), _MOST_WARPS)


def embed_norm(ids_T: Tensor, places_T: Tensor, words_VH: Tensor, positions_PH: Tensor, norm: Norm) -> Tensor:
    """LayerNorm(words[id] + positions[place]), [T, H] in the tables' type. Ids and places are int64."""
    out, width = words_VH.new_empty(len(ids_T), words_VH.shape[1]), words_VH.shape[1]
    block, warps = block_of(width)
    _embed_norm_kernel[(len(ids_T),)](
        ids_T, places_T, words_VH, positions_PH, norm.weight, norm.bias, out, width, block, norm.eps, num_warps=warps
    )
    return out


def add_norm(x_TH: Tensor, bias_H: Tensor, residual_TH: Tensor, norm: Norm) -> Tensor:
    """LayerNorm(x + bias + residual), [T, H]. All tensors are contiguous."""
    out = torch.empty_like(residual_TH)
    _add_norm(x_TH, bias_H, residual_TH, norm, out, None)
    return out


def add_norm_codes(x_TH: Tensor, bias_H: Tensor, residual_TH: Tensor, norm: Norm) -> tuple[Tensor, Codes]:
    """As `add_norm`, and the 8-bit codes of the result before it is rounded."""
    out, codes = torch.empty_like(residual_TH), _empty_codes(residual_TH)
    _add_norm(x_TH, bias_H, residual_TH, norm, out, codes)
    return out, codes


def _add_norm(x_TH: Tensor, bias_H: Tensor, residual_TH: Tensor, norm: Norm, out: Tensor, codes: Codes | None) -> None:
    tokens, width = residual_TH.shape
    block, warps = block_of(width)
    values, scales = (codes.values_TH, codes.scales_T1) if codes else (out, out)  # not written to without codes
    _add_norm_kernel[(tokens,)](
        x_TH, bias_H, residual_TH, norm.weight, norm.bias, out, values, scales, width, block, norm.eps,
        codes is not None, LARGEST, LEAST_REACH, num_warps=warps,
    )  # fmt: skip


def codes(x_TH: Tensor, activation: str = "none") -> Codes:
    """8-bit codes of activation(x), one scale a row. `activation`: none, gelu, gelu_tanh, relu. `x_TH` is contiguous."""
    found, (tokens, width) = _empty_codes(x_TH), x_TH.shape
    block, warps = block_of(width)
    _codes_kernel[(tokens,)](
        x_TH, found.values_TH, found.scales_T1, width, block, activation, LARGEST, LEAST_REACH, num_warps=warps
    )
    return found


def segment_mean(states_TH: Tensor, starts_B: Tensor, ends_B: Tensor) -> Tensor:
    """[B, H] float32: the mean of rows start to end (exclusive) of each segment; zeros for one without rows."""
    width = states_TH.shape[1]
    out = torch.empty(len(starts_B), width, dtype=torch.float32, device=states_TH.device)
    grid = (len(starts_B), -(-width // _SEGMENT_COLUMNS))
    _segment_mean_kernel[grid](
        states_TH, starts_B, ends_B, out, width, _SEGMENT_ROWS, _SEGMENT_COLUMNS, num_warps=SEGMENT_WARPS
    )  # fmt: skip
    return out


def _empty_codes(like_TH: Tensor) -> Codes:
    return Codes(
        torch.empty_like(like_TH, dtype=FLOAT8),
        torch.empty(len(like_TH), 1, dtype=torch.float32, device=like_TH.device),
    )

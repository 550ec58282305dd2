"""What lies between the matrix products of an 8-bit layer: quantisation, residual + LayerNorm, GELU; one pass over each row.

    quantize          x                          -> uint8
    add_norm          LayerNorm(x + residual)    -> bfloat16, and uint8 where a quantiser is given
    activate          gelu(x), or x              -> uint8, loud channels in several columns (Split)

They are C (rowwise.c), an optional extension; without it, or if it computes something else than torch, they are torch's
operators: some 20% slower as a whole. A row's result depends on that row alone. Shapes: T tokens, I channels, C columns.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from workers.engine.kernels.threads import kernel_threads
from workers.extension import load

_EXTENSION = "workers.engine.kernels._rowwise"
_MOST_CHANNELS = 16384  # of a row: rowwise.c
_BORDERLINE = 0.01  # share of levels that may be one off: the compiled GELU differs by 3e-5, sums by their order
_SAME = 0.04  # largest accepted difference of LayerNorm's results below 8; they are rounded to bfloat16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """uint8 level of a value: round(value * factor of its channel) + zero, limited to 0 ... 255."""

    factors_I: Tensor  # float32
    zero: int

    def __call__(self, x_TI: Tensor) -> Tensor:
        return ((x_TI.float() * self.factors_I).round_() + self.zero).clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Split:
    """The columns into which loud channels, which come after the `quiet` ones, are divided.

    Level of a column = floor((n + shift) * share) + zero, for the level n of its channel, not limited. With shift = j + 1/2
    and share = 1 / k for j = 0 ... k - 1, the k columns of a channel add up to n, and each needs a k-th of its range.
    """

    quiet: int
    source_C: Tensor  # int32: channel, counted from the first loud one
    shift_C: Tensor
    share_C: Tensor

    @property
    def channels(self) -> int:
        """Of the input."""
        return self.quiet + (int(self.source_C.max()) + 1 if len(self.source_C) else 0)

    def order(self) -> Tensor:
        """[quiet + C] channel of each column."""
        return torch.cat([torch.arange(self.quiet), self.quiet + self.source_C.to(torch.int64)])


@dataclass(frozen=True, slots=True)
class RowNorm:
    """LayerNorm in float32 over the last axis."""

    weight_I: Tensor
    bias_I: Tensor
    eps: float


def quantize(x_TI: Tensor, to: Quantizer) -> Tensor:
    """[T, I] bfloat16 -> [T, I] uint8."""
    return _quantize(_usable(x_TI), x_TI, to)


def add_norm(x_TI: Tensor, residual_TI: Tensor, norm: RowNorm, to: Quantizer | None = None) -> tuple[Tensor, Tensor]:
    """LayerNorm(x + residual) in bfloat16 and, of the unrounded values, in uint8; without `to`, an empty tensor instead."""
    return _add_norm(_usable(x_TI), x_TI, residual_TI, norm, to)


def activate(x_TI: Tensor, to: Quantizer, split: Split, *, with_gelu: bool) -> Tensor:
    """[T, I] bfloat16 -> [T, quiet + C] uint8."""
    return _activate(_usable(x_TI), x_TI, to, split, with_gelu)


def _quantize(library: ctypes.CDLL | None, x_TI: Tensor, to: Quantizer) -> Tensor:
    if library is None:
        return to(x_TI)
    (rows, channels), x_TI = x_TI.shape, x_TI.contiguous()
    levels = torch.empty(rows, channels, dtype=torch.uint8)

    def part(first: int, count: int) -> None:
        library.reembed_quantize(_at(x_TI, first), _at(to.factors_I), to.zero, _at(levels, first), count, channels)

    _each(part, rows)
    return levels


def _add_norm(
    library: ctypes.CDLL | None, x_TI: Tensor, residual_TI: Tensor, norm: RowNorm, to: Quantizer | None
) -> tuple[Tensor, Tensor]:
    if library is None:
        exact = layer_norm(x_TI.float() + residual_TI.float(), x_TI.shape[-1:], norm.weight_I, norm.bias_I, norm.eps)
        return exact.to(x_TI.dtype), torch.empty(0, dtype=torch.uint8) if to is None else to(exact)
    (rows, channels), x_TI, residual_TI = x_TI.shape, x_TI.contiguous(), residual_TI.contiguous()
    out, levels = torch.empty_like(x_TI), torch.empty(0 if to is None else rows, channels, dtype=torch.uint8)

    def part(first: int, count: int) -> None:
        library.reembed_norm(
            _at(x_TI, first), _at(residual_TI, first), _at(norm.weight_I), _at(norm.bias_I), norm.eps, _at(out, first),
            None if to is None else _at(to.factors_I), 0 if to is None else to.zero,
            None if to is None else _at(levels, first), count, channels,
        )  # fmt: skip

    _each(part, rows)
    return out, levels


def _activate(library: ctypes.CDLL | None, x_TI: Tensor, to: Quantizer, split: Split, with_gelu: bool) -> Tensor:
    quiet, columns = split.quiet, len(split.source_C)
    if library is None:
        level = ((gelu(x_TI.float()) if with_gelu else x_TI.float()) * to.factors_I).round_()
        loud = ((level[:, quiet + split.source_C.long()] + split.shift_C) * split.share_C).floor_()
        return (torch.cat([level[:, :quiet], loud], 1) + to.zero).clamp_(0, 255).to(torch.uint8)
    (rows, channels), x_TI = x_TI.shape, x_TI.contiguous()
    levels = torch.empty(rows, quiet + columns, dtype=torch.uint8)

    def part(first: int, count: int) -> None:
        library.reembed_activate(
            _at(x_TI, first), int(with_gelu), _at(to.factors_I), to.zero, quiet, _at(split.source_C), _at(split.shift_C),
            _at(split.share_C), columns, _at(levels, first), count, channels,
        )  # fmt: skip

    _each(part, rows)
    return levels


def _at(tensor: Tensor, row: int = 0) -> int:
    """Address of a row of a contiguous tensor."""
    return tensor.data_ptr() + row * (tensor.stride(0) * tensor.element_size() if row else 0)


def _each(part: Callable[[int, int], None], rows: int) -> None:
    """Call part(first row, number of rows) by as many threads as torch has."""
    threads = torch.get_num_threads()
    if threads == 1 or rows < threads:
        part(0, rows)
        return
    cuts = [rows * index // threads for index in range(threads + 1)]
    list(kernel_threads().map(lambda index: part(cuts[index], cuts[index + 1] - cuts[index]), range(threads)))


def _usable(x_TI: Tensor) -> ctypes.CDLL | None:
    return _library() if _verified() and x_TI.dtype is torch.bfloat16 and x_TI.shape[-1] <= _MOST_CHANNELS else None


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises: OSError."""
    library = load(_EXTENSION)
    address, number, size = ctypes.c_void_p, ctypes.c_float, ctypes.c_long
    library.reembed_quantize.argtypes = [address, address, number, address, size, size]
    library.reembed_quantize.restype = None
    library.reembed_activate.argtypes = [
        address, ctypes.c_int, address, number, size, address, address, address, size, address, size, size,
    ]  # fmt: skip
    library.reembed_norm.argtypes = [*[address] * 4, number, address, address, number, address, size, size]
    return library


@functools.cache
def _verified() -> bool:
    """Whether the extension is installed and computes what torch computes."""
    try:
        library = _library()
    except OSError as error:
        _log.info("what lies between 8-bit products through torch's operators: the compiled functions are %s", error)
        return False
    reason = _flaw(library)
    if reason is not None:
        _log.warning("what lies between 8-bit products through torch's operators: %s", reason)
    return reason is None


def _flaw(library: ctypes.CDLL) -> str | None:
    """What is wrong with the compiled functions on this processor."""
    random = torch.Generator().manual_seed(1)
    rows, channels, quiet = 40, 77, 59
    x, residual = ((3 * torch.randn(rows, channels, generator=random)).bfloat16() for _ in range(2))
    to = Quantizer(20 + torch.rand(channels, generator=random), 90)
    source = torch.arange(2 * (channels - quiet), dtype=torch.int32) // 2
    split = Split(quiet, source, torch.arange(len(source)) % 2 + 0.5, torch.full((len(source),), 0.5))
    norm = RowNorm(torch.rand(channels, generator=random), torch.rand(channels, generator=random), 1e-5)

    def run(by: ctypes.CDLL | None) -> list[Tensor]:
        active = [_activate(by, x, to, split, with_gelu) for with_gelu in (True, False)]
        return [_quantize(by, x, to), *active, *_add_norm(by, x, residual, norm, to)]

    for computed, exact in zip(run(library), run(None), strict=True):
        difference = (computed.float() - exact.float()).abs()
        worst = float(difference.max())
        if computed.dtype is torch.uint8 and not (worst <= 1 and float((difference > 0).float().mean()) <= _BORDERLINE):
            return f"compiled 8-bit levels are off by up to {worst:.0f} on this processor"
        if computed.dtype is not torch.uint8 and not worst <= _SAME:
            return f"the compiled LayerNorm is off by {worst:.1e} on this processor"
    return None

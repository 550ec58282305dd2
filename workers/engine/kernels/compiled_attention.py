"""The attention kernel in C (attention.c): CPU with AVX512-BF16, bfloat16, no padding.

It is an optional extension, built if the installation finds a C compiler. Without it `attend` returns None and attention
uses torch's operators, which makes the encoder some 17% slower. Once per process it is verified against torch's attention.

Shapes: T tokens, H heads, d size of a head.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.kernels.relative import RelativeBias
from workers.engine.kernels.threads import kernel_threads
from workers.extension import load

HEAD_MULTIPLE = 32  # a head's size must be a multiple: bfloat16 numbers in a register
_EXTENSION = "workers.engine.kernels._attention"
_SAME = 0.02  # largest accepted difference from float32 on normal random numbers; rounding the result gives 0.008
_log = logging.getLogger(__name__)
Attend = Callable[[Tensor, NDArray[np.signedinteger], int, RelativeBias | None], Tensor]


def attend(head_size: int) -> Attend | None:
    """The kernel for heads of that size; None if this machine has none.

    Its arguments are qkv [T', 3, H, d] in bfloat16, with scores as exponents of 2; offsets [B + 1] (32 bits; others are
    converted); the number of threads; a bias by distance, or None. It returns [T', H d], with zeros in rows after the last
    offset.

    Raises (the kernel):
        MemoryError: no memory for keys and values of the longest sequence.
    """
    return _run if head_size % HEAD_MULTIPLE == 0 and _verified() else None


def _run(qkv_T3Hd: Tensor, offsets_B1: NDArray[np.signedinteger], threads: int, bias: RelativeBias | None = None) -> Tensor:
    tokens, _, heads, size = qkv_T3Hd.shape
    out = qkv_T3Hd.new_empty(tokens, heads * size)
    out[int(offsets_B1[-1]) :] = 0
    qkv_T3Hd, borders = qkv_T3Hd.contiguous(), np.ascontiguousarray(offsets_B1, np.int32)
    table, reach = (bias.exponents_HR.data_ptr(), bias.reach) if bias is not None else (None, 0)

    def part(first: int, stop: int) -> int:
        begin = borders.ctypes.data + first * borders.itemsize
        states = (qkv_T3Hd.data_ptr(), out.data_ptr(), begin)
        return int(_library().reembed_attend(*states, stop - first, heads, size, table, reach))

    if threads == 1:
        failed = part(0, len(borders) - 1)
    else:
        cuts = _cuts(borders, threads)
        failed = min(kernel_threads().map(part, cuts[:-1], cuts[1:]), default=0)
    if failed:
        raise MemoryError(f"attention over {int(np.diff(offsets_B1).max())} tokens: no memory for its keys and values")
    return out


def rotate(qkv_T3Hd: Tensor, cosines_Tc: Tensor, sines_Tc: Tensor) -> bool:
    """Rotary positions of queries and keys, in place; False, and nothing done, if this machine has no kernel for it.

    `qkv_T3Hd` is bfloat16 and contiguous, of T or more tokens. `cosines_Tc`, `sines_Tc`: float32 [T, d / 2].
    """
    _, _, heads, size = qkv_T3Hd.shape
    if size % HEAD_MULTIPLE or qkv_T3Hd.dtype is not torch.bfloat16 or not _verified():
        return False
    angles = (cosines_Tc.contiguous(), sines_Tc.contiguous())
    states = (qkv_T3Hd.data_ptr(), len(cosines_Tc), 3 * heads * size, 2 * heads, size)
    _library().reembed_rotate(*states, *(part.data_ptr() for part in angles))
    return True


def _cuts(offsets_B1: NDArray[np.int32], parts: int) -> list[int]:
    """Indices of sequences, 0 to B, that divide the work (length squared) evenly into `parts`; some may coincide."""
    done = np.cumsum(np.diff(offsets_B1).astype(np.int64) ** 2)
    shares = np.arange(1, parts) * (done[-1] / parts) if len(done) else []
    return [0, *np.searchsorted(done, shares).tolist(), len(done)]


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises: OSError."""
    library = load(_EXTENSION)
    if not hasattr(library, "reembed_rotate"):
        raise OSError("of an earlier version; install again")
    library.reembed_attend.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_long] * 3, ctypes.c_void_p, ctypes.c_long]
    library.reembed_attend.restype = ctypes.c_int
    library.reembed_rotate.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, *[ctypes.c_void_p] * 2]
    library.reembed_rotate.restype = None
    return library


@functools.cache
def _verified() -> bool:
    """Whether the kernel is installed, runs on this processor, and computes what torch computes."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        _library()
    except OSError as error:
        _log.info("attention through torch's operators: the compiled kernel is %s", error)
        return False
    random = torch.Generator().manual_seed(1)
    lengths = np.array([1, 7, 8, 16, 17, 65, 130])
    qkv = torch.randn(int(lengths.sum()) + 3, 3, 2, HEAD_MULTIPLE, generator=random).bfloat16()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    worst = 0.0
    for bias in (None, RelativeBias(4 * torch.randn(2, 19, generator=random))):
        computed = _run(qkv, offsets, 1, bias)[: offsets[-1]].float()
        exact = torch.cat([_exact(qkv[start:stop].float(), bias) for start, stop in itertools.pairwise(offsets)])
        worst = float((computed - exact).abs().max().clamp(min=worst))  # NaN stays
    if not worst <= _SAME:
        _log.warning("attention through torch's operators: the compiled kernel is off by %.1e on this processor", worst)
        return False
    return True


def _exact(qkv_L3Hd: Tensor, bias: RelativeBias | None) -> Tensor:
    """[L, H d]: attention over one sequence by torch."""
    query, key, value = qkv_L3Hd.permute(1, 2, 0, 3)
    added = None if bias is None else bias.square(len(qkv_L3Hd), qkv_L3Hd)
    return scaled_dot_product_attention(query, key, value, added, scale=math.log(2)).transpose(0, 1).flatten(1)

"""Attention over a packed batch: tokens attend to tokens of their own sequence only. softmax(Q K' scale) V per sequence.

    register()        registers IMPLEMENTATION with transformers; such a model takes `packed=PackedBatch` in its forward call
    varlen            CUDA, half precision: one kernel over the cumulative lengths
    by_runs           any device and precision: sequences of equal length as one dense block, without a mask
    softmax_free      CPU, bfloat16, where compiled_attention.py is not available: similar lengths as a dense block
    fused_attention   CPU, for a fused projection: the fastest of these for its precision

Shapes: T tokens, H heads, d size of a head; n sequences of L tokens in a run or block. Knows nothing of models.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.kernels import compiled_attention
from workers.engine.kernels.packing import PackedBatch

IMPLEMENTATION = "reembed_packed"  # not in transformers' registry of masks, so that it creates none
SCORE_UNIT = math.log(2)  # scores of fused projections are exponents of 2, not of e: exp2 is faster
_FLASH: Any = torch.ops.aten._flash_attention_forward  # the same arguments in torch 2.11 and 2.13
LARGEST_HEAD = 256  # of FlashAttention-2
LEAST_WEIGHT = 1e-36  # smaller sums consist of denormal numbers
_SUM_COLUMNS = 16  # columns of ones appended to V; matrix products are fastest at multiples of 16


def register() -> None:
    """Register with transformers, which is imported. Idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, _attention)


def _attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, packed: PackedBatch,
    scaling: float | None = None, sliding_window: int | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' interface of an attention function, which fixes the parameters: [1, H, T, d] -> [1, T, H, d]."""
    query_THd, key_THd, value_THd = (states[0].transpose(0, 1) for states in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    attend = varlen if takes_varlen(query) else by_runs
    attended = attend(query_THd, key_THd, value_THd, packed, scale, sliding_window)
    return attended.view(1, *query_THd.shape), None


def takes_varlen(query: Tensor) -> bool:
    """Whether `varlen` computes states of this device, precision and size of a head (the last axis)."""
    size, half = query.shape[-1], query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and size % 8 == 0 and size <= LARGEST_HEAD


def varlen(
    query_THd: Tensor, key_THd: Tensor, value_THd: Tensor, packed: PackedBatch, scale: float, window: int | None = None
) -> Tensor:
    """[T, H, d]. `window`: tokens attend to those less than `window` positions away (transformers' sliding_window)."""
    return flash(query_THd, key_THd, value_THd, packed.cumulative_B1, packed.longest, scale, window)


def flash(
    query_THd: Tensor, key_TGd: Tensor, value_TGd: Tensor, cumulative_B1: Tensor, longest: int, scale: float,
    window: int | None, *, causal: bool = False,
) -> Tensor:  # fmt: skip
    """As `varlen`, from cumulative lengths (int32) and the longest length: what torch.compile can follow.

    FlashAttention-2 as torch contains it (arXiv:2307.08691). torch.nn.attention.varlen calls the same operator through a
    custom one, which costs the host 17 us a call and one more kernel, and in torch 2.11 refuses shared heads, which the
    operator takes. The first axis may be strided, as in a fused projection.

    Args:
        key_TGd: a head of keys and values may be shared by H / G adjacent heads of queries.
        causal: tokens attend to no later ones.
    """
    back = None if window is None else window - 1
    return _FLASH(  # type: ignore[no-any-return]
        query_THd, key_TGd, value_TGd, cumulative_B1, cumulative_B1, longest, longest, 0.0, causal and window is None, False,
        scale=scale, window_size_left=back, window_size_right=0 if causal and window is not None else back,
    )[0]  # fmt: skip


def by_runs(
    query_THd: Tensor, key_THd: Tensor, value_THd: Tensor, packed: PackedBatch, scale: float, window: int | None = None
) -> Tensor:
    """[T, H d]; otherwise as `varlen`."""
    out = query_THd.new_empty(len(query_THd), query_THd[0].numel())
    return _write_by_runs(out, (query_THd, key_THd, value_THd), packed, scale, window)


def _write_by_runs(
    out: Tensor, states: tuple[Tensor, Tensor, Tensor], packed: PackedBatch, scale: float, window: int | None = None
) -> Tensor:
    """Attention over (query, key, value), each [T, H, d], into the first T rows of `out` [>= T, H d], which is returned."""
    for run in packed.runs:
        block = (run.count, run.length, *states[0].shape[1:])
        query, key, value = (part_THd[run.start : run.stop].view(block).transpose(1, 2) for part_THd in states)
        near = None if window is None or window >= run.length else _near(run.length, window, query.device)
        attended = scaled_dot_product_attention(query, key, value, near, scale=scale)
        out[run.start : run.stop].view(block).copy_(attended.transpose(1, 2))
    return out


def softmax_free(qkv_T3Hd: Tensor, packed: PackedBatch) -> Tensor:
    """[T, H d] bfloat16, for scores in SCORE_UNITs: P = 2^(Q K') [V, 1], then the columns of V divided by that of the ones.

    Adjacent sequences of similar length form one dense block. For padding, V and the ones are 0, so that it has no weight.
    The maximum need not be subtracted, since bfloat16 has the exponents of float32. Scores are rounded to bfloat16, as by
    transformers' eager attention. On short sequences this is three times as fast as torch's flash kernel, which spends its
    time in the softmax. If a product overflows or a sum vanishes (scores beyond +-80), the batch is computed by that kernel.
    """
    tokens, _, heads, size = qkv_T3Hd.shape
    out = qkv_T3Hd.new_empty(tokens, heads * size)
    out[packed.tokens :] = 0  # rows after the last sequence
    for block in packed.blocks:
        of_block = (block.count, block.length, heads, size)
        rows = qkv_T3Hd[block.start : block.stop]
        spread = rows if block.slots is None else rows.flatten(1).index_select(0, block.sources)
        query, key, value = spread.view(block.count, block.length, 3, heads, size).permute(2, 0, 3, 1, 4)
        query_BLd, key_BLd = (states.reshape(-1, block.length, size) for states in (query, key))
        value_nHLe = rows.new_empty(block.count, heads, block.length, size + _SUM_COLUMNS)
        if block.slots is None:
            value_nHLe[..., :size] = value
            value_nHLe[..., size:] = 1
        else:
            torch.mul(value, block.real, out=value_nHLe[..., :size])
            value_nHLe[..., size:] = block.real
        scores = torch.bmm(query_BLd, key_BLd.transpose(1, 2)).exp2_()
        weighted = torch.bmm(scores, value_nHLe.view(-1, block.length, size + _SUM_COLUMNS))
        weighted = weighted.view(block.count, heads, block.length, -1)
        sums = weighted[..., size : size + 1]
        attended = rows.new_empty(of_block)
        torch.mul(weighted[..., :size], sums.reciprocal(), out=attended.transpose(1, 2))
        low, high = torch.aminmax(attended)
        if not (torch.aminmax(sums).min > LEAST_WEIGHT and torch.isfinite(high - low)):
            return _all_by_runs(qkv_T3Hd, packed, out)
        flat = attended.view(-1, heads * size)
        if block.slots is None:
            out[block.start : block.stop] = flat
        else:
            torch.index_select(flat, 0, block.slots, out=out[block.start : block.stop])
    return out


def fused_attention(qkv_T3Hd: Tensor, packed: PackedBatch) -> Tensor:
    """[T, H d] from a fused projection with scores in SCORE_UNITs, on a CPU. Rows beyond the batch's tokens are zeros."""
    if qkv_T3Hd.dtype is torch.bfloat16:
        compiled = compiled_attention.attend(qkv_T3Hd.shape[-1])
        if compiled is None:
            return softmax_free(qkv_T3Hd, packed)
        return compiled(qkv_T3Hd, packed.cumulative_B1.numpy(), torch.get_num_threads())
    return _all_by_runs(qkv_T3Hd, packed, qkv_T3Hd.new_zeros(len(qkv_T3Hd), qkv_T3Hd[0, 0].numel()))


def _all_by_runs(qkv_T3Hd: Tensor, packed: PackedBatch, out: Tensor) -> Tensor:
    query, key, value = qkv_T3Hd[: packed.tokens].unbind(1)
    return _write_by_runs(out, (query, key, value), packed, SCORE_UNIT)


def _near(length: int, window: int, device: torch.device) -> Tensor:
    """[L, L] bool: which positions attend to each other."""
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() < window

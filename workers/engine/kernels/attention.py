"""Attention over a packed batch: tokens attend to tokens of their own sequence only. softmax(Q K' scale) V per sequence.

    register()        registers IMPLEMENTATION with transformers; such a model takes `packed=PackedBatch` in its forward call
    varlen            CUDA, half precision: one kernel over the cumulative lengths
    by_runs           any device and precision: sequences of equal length as one dense block, without a mask
    softmax_free      CPU, bfloat16, where compiled_attention.py is not available: similar lengths as a dense block
    fused_attention   CPU, for a fused projection: the fastest of these for its precision

Shapes: T tokens, H heads, G heads of keys and values, d size of a head; n sequences of L tokens in a run or block. Knows
nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.engine.kernels import compiled_attention
from workers.engine.kernels.packing import PackedBatch
from workers.engine.kernels.relative import RelativeBias

IMPLEMENTATION = "reembed_packed"  # not in transformers' registry of masks, so that it creates none
SCORE_UNIT = math.log(2)  # scores of fused projections are exponents of 2, not of e: exp2 is faster
_FLASH: Any = torch.ops.aten._flash_attention_forward  # the same arguments in torch 2.11 and 2.13
LARGEST_HEAD = 256  # of FlashAttention-2
LEAST_WEIGHT = 1e-36  # smaller sums consist of denormal numbers
_MORE = ("position_bias", "s_aux", "sinks", "softcap", "indices", "block_indices")  # what models may ask of their attention
_SUM_COLUMNS = 16  # columns of ones appended to V; matrix products are fastest at multiples of 16


def register() -> None:
    """Register with transformers, which is imported. Idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, _attention)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, packed: PackedBatch,
    scaling: float | None = None, sliding_window: int | None = None, is_causal: bool | None = None, **other: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' interface of an attention function, which fixes the parameters: [1, H, T, d] -> [1, T, H, d].

    Raises: NotImplementedError: as `read_call`.
    """
    query_THd, key_TGd, value_TGd, scale, causal = read_call(module, (query, key, value), scaling, is_causal, other)
    attend = varlen if takes_varlen(query, value) else by_runs
    attended = attend(query_THd, key_TGd, value_TGd, packed, scale, sliding_window, causal=causal)
    return attended.view(1, *query_THd.shape[:2], -1), None


def read_call(
    module: Any, states: tuple[Tensor, Tensor, Tensor], scaling: float | None, is_causal: bool | None,
    other: Mapping[str, Any],
) -> tuple[Tensor, Tensor, Tensor, float, bool]:  # fmt: skip
    """Query, key and value ([1, H, T, d] each) as [T, H, d]; the scale of scores; whether they are causal.

    Scale and causality are read as transformers' flash attention reads them, which gets no mask either.

    Raises:
        NotImplementedError: the model asks for more, as a cap of the scores.
    """
    if more := [name for name in _MORE if other.get(name) is not None]:
        raise NotImplementedError(f"packed attention with {', '.join(more)}")
    query_THd, key_TGd, value_TGd = (part[0].transpose(0, 1) for part in states)
    scale = scaling if scaling is not None else query_THd.shape[-1] ** -0.5
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    return query_THd, key_TGd, value_TGd, scale, causal


def takes_varlen(query: Tensor, value: Tensor) -> bool:
    """Whether `varlen` computes states of this device, precision and size of a head (the last axis)."""
    size, half = query.shape[-1], query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and size % 8 == 0 and size <= LARGEST_HEAD and size == value.shape[-1]


def varlen(
    query_THd: Tensor, key_TGd: Tensor, value_TGd: Tensor, packed: PackedBatch, scale: float, window: int | None = None,
    *, causal: bool = False,
) -> Tensor:  # fmt: skip
    """[T, H, d]. H is a multiple of G: a head of keys and values is shared by adjacent heads of queries.

    Args:
        window: tokens attend to those less than `window` positions away (transformers' sliding_window).
        causal: tokens attend to no later ones.
    """
    borders, longest = packed.cumulative_B1, packed.longest
    return flash(query_THd, key_TGd, value_TGd, borders, longest, scale, window, causal=causal)


def flash(
    query_THd: Tensor, key_TGd: Tensor, value_TGd: Tensor, cumulative_B1: Tensor, longest: int, scale: float,
    window: int | None, *, causal: bool = False,
) -> Tensor:  # fmt: skip
    """As `varlen`, from cumulative lengths (int32) and the longest length: what torch.compile can follow.

    FlashAttention-2 as torch contains it (arXiv:2307.08691). torch.nn.attention.varlen calls the same operator through a
    custom one, which costs the host 17 us a call and one more kernel, and in torch 2.11 refuses shared heads, which the
    operator takes. The first axis may be strided, as in a fused projection. A window that ends at the token is causal.
    """
    back = -1 if window is None else window - 1
    return _FLASH(  # type: ignore[no-any-return]
        query_THd, key_TGd, value_TGd, cumulative_B1, cumulative_B1, longest, longest, 0.0, False, False,
        scale=scale, window_size_left=back, window_size_right=0 if causal else back,
    )[0]  # fmt: skip


def by_runs(
    query_THd: Tensor, key_TGd: Tensor, value_TGd: Tensor, packed: PackedBatch, scale: float, window: int | None = None,
    *, causal: bool = False, bias: RelativeBias | None = None,
) -> Tensor:  # fmt: skip
    """[T, H d]; otherwise as `varlen`. `bias`: added to the scores; without `window` and `causal`."""
    out = query_THd.new_empty(len(query_THd), query_THd.shape[1] * value_TGd.shape[2])
    return _write_by_runs(out, (query_THd, key_TGd, value_TGd), packed, scale, window, causal=causal, bias=bias)


def _write_by_runs(
    out: Tensor, states: tuple[Tensor, Tensor, Tensor], packed: PackedBatch, scale: float, window: int | None = None,
    *, causal: bool = False, bias: RelativeBias | None = None,
) -> Tensor:  # fmt: skip
    """Attention over (query, key, value), each [T, H or G, d], into the first T rows of `out` [>= T, H d], returned."""
    groups = states[0].shape[1] // states[1].shape[1]
    for run in packed.runs:
        shape = (run.count, run.length)
        query, key, value = (part[run.start : run.stop].view(*shape, *part.shape[1:]).transpose(1, 2) for part in states)
        if groups > 1:  # torch's fast kernels on CPUs want as many heads of keys
            key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        mask, at_once = None, causal
        if window is not None and window < run.length:
            mask, at_once = _near(run.length, window, query.device, causal=causal), False
        elif bias is not None:
            mask = bias.square(run.length, query)
        attended = scaled_dot_product_attention(query, key, value, mask, is_causal=at_once, scale=scale)
        out[run.start : run.stop].view(*shape, query.shape[1], -1).copy_(attended.transpose(1, 2))
    return out


def softmax_free(qkv_T3Hd: Tensor, packed: PackedBatch, bias: RelativeBias | None = None) -> Tensor:
    """[T, H d] bfloat16, for scores in SCORE_UNITs: P = 2^(Q K' + bias) [V, 1], columns of V divided by that of ones.

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
        scores = torch.bmm(query_BLd, key_BLd.transpose(1, 2))
        if bias is not None:
            scores.view(block.count, heads, block.length, -1).add_(bias.square(block.length, scores, SCORE_UNIT))
        weighted = torch.bmm(scores.exp2_(), value_nHLe.view(-1, block.length, size + _SUM_COLUMNS))
        weighted = weighted.view(block.count, heads, block.length, -1)
        sums = weighted[..., size : size + 1]
        attended = rows.new_empty(of_block)
        torch.mul(weighted[..., :size], sums.reciprocal(), out=attended.transpose(1, 2))
        low, high = torch.aminmax(attended)
        if not (torch.aminmax(sums).min > LEAST_WEIGHT and torch.isfinite(high - low)):
            return _all_by_runs(qkv_T3Hd, packed, out, bias)
        flat = attended.view(-1, heads * size)
        if block.slots is None:
            out[block.start : block.stop] = flat
        else:
            torch.index_select(flat, 0, block.slots, out=out[block.start : block.stop])
    return out


def fused_attention(qkv_T3Hd: Tensor, packed: PackedBatch, bias: RelativeBias | None = None) -> Tensor:
    """[T, H d] from a fused projection with scores in SCORE_UNITs, on a CPU. Rows beyond the batch's tokens are zeros."""
    if qkv_T3Hd.dtype is torch.bfloat16:
        compiled = compiled_attention.attend(qkv_T3Hd.shape[-1])
        if compiled is None:
            return softmax_free(qkv_T3Hd, packed, bias)
        return compiled(qkv_T3Hd, packed.cumulative_B1.numpy(), torch.get_num_threads(), bias)
    return _all_by_runs(qkv_T3Hd, packed, qkv_T3Hd.new_zeros(len(qkv_T3Hd), qkv_T3Hd[0, 0].numel()), bias)


def _all_by_runs(qkv_T3Hd: Tensor, packed: PackedBatch, out: Tensor, bias: RelativeBias | None) -> Tensor:
    query, key, value = qkv_T3Hd[: packed.tokens].unbind(1)
    if bias is not None and bias.window is not None:
        return _write_by_runs(out, (query, key, value), packed, SCORE_UNIT, bias.window)
    return _write_by_runs(out, (query, key, value), packed, SCORE_UNIT, bias=bias)


def _near(length: int, window: int, device: torch.device, *, causal: bool) -> Tensor:
    """[L, L] bool: which positions, by row, attend to which."""
    positions = torch.arange(length, device=device)
    ahead = positions - positions[:, None]
    return (ahead.abs() < window) & (ahead <= 0) if causal else ahead.abs() < window

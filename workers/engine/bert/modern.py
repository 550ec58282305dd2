"""Encoder layers of ModernBERT on a CPU, over packed tokens (arXiv:2412.13663, section 2.1).

LayerNorm comes before attention and feed-forward network, positions are rotary, the feed-forward network is gated, and most
layers attend within a window. Five fused matrix products a layer, attention, and one pass for the rotation.

Shapes: T tokens, I hidden size, H heads, d size of a head, c = d / 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.bert.weights import Norm
from workers.engine.kernels.attention import SCORE_UNIT, fused_attention
from workers.engine.kernels.compiled_attention import rotate
from workers.engine.kernels.linear import Linear
from workers.engine.kernels.packing import PackedBatch
from workers.engine.kernels.relative import RelativeBias

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of the tokens' rotations, float32 [T, c] each."""


class ModernLayer:
    """One layer, computed in `dtype`."""

    def __init__(self, layer: Any, bias: RelativeBias | None, dtype: torch.dtype) -> None:
        """`layer`: transformers' ModernBertEncoderLayer in float32. `bias`: its window, shared by layers."""
        attention, feed = layer.attn, layer.mlp
        self._heads, self._bias = attention.Wqkv.out_features // (3 * attention.head_dim), bias
        weight, offset = _pair(attention.Wqkv)
        scale = torch.ones(len(weight), 1)
        scale[: len(weight) // 3] = attention.head_dim**-0.5 / SCORE_UNIT
        self._qkv = Linear(weight * scale, offset * scale[:, 0], dtype)
        self._out, self._down = Linear(*_pair(attention.Wo), dtype), Linear(*_pair(feed.Wo), dtype)
        (up, gate), (up_offset, gate_offset) = (part.chunk(2) for part in _pair(feed.Wi))
        self._up, self._gate = Linear(up, up_offset, dtype), Linear(gate, gate_offset, dtype)
        first = isinstance(layer.attn_norm, torch.nn.Identity)
        self._attention_norm = None if first else norm_of(layer.attn_norm, dtype)
        self._output_norm = norm_of(layer.mlp_norm, dtype)

    def __call__(self, x_TI: Tensor, angles: Angles, batch: PackedBatch) -> Tensor:
        """[T, I]."""
        qkv = self._qkv(self._attention_norm(x_TI) if self._attention_norm else x_TI).view(len(x_TI), 3, self._heads, -1)
        if not rotate(qkv, *angles):
            _rotate_by_torch(qkv, *angles)
        middle = self._out(fused_attention(qkv, batch, self._bias), residual=x_TI)
        normed = self._output_norm(middle)
        return self._down(self._gate(normed, gate=self._up(normed, activation="gelu")), residual=middle)


def norm_of(module: Any, dtype: torch.dtype) -> Norm:
    """A LayerNorm, with or without a bias."""
    weight = module.weight.detach()
    bias = torch.zeros_like(weight) if module.bias is None else module.bias.detach()
    return Norm(weight, bias, module.eps).to(dtype)


def _pair(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer; zeros where it has no bias."""
    weight = module.weight.detach()
    return weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach()


def _rotate_by_torch(qkv_T3Hd: Tensor, cosines_Tc: Tensor, sines_Tc: Tensor) -> None:
    """As compiled_attention.rotate."""
    both = qkv_T3Hd[: len(cosines_Tc), :2]
    low, high = both.float().chunk(2, dim=-1)
    cosine, sine = cosines_Tc[:, None, None], sines_Tc[:, None, None]
    both.copy_(torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1))

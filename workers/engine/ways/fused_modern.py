"""Layers of our own for ModernBERT, on a CPU, without padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.config import Precision
from workers.engine.batches.plan import Layout
from workers.engine.bert.layers import TOKENS_MULTIPLE
from workers.engine.bert.modern import Angles, ModernLayer, norm_of
from workers.engine.kernels.packing import PackedBatch
from workers.engine.kernels.relative import RelativeBias
from workers.engine.ways.interface import States


class FusedModern:
    """ModernBERT's layers of our own (bert/modern.py), on a CPU."""

    layout = Layout.PACKED

    def __init__(self, model: Any, precision: Precision) -> None:
        """`model`: transformers' ModernBertModel in float32, of which `fits` is true; it is not changed.

        `precision`: float32 or bfloat16.
        """
        self.name = f"fused {precision.value}"
        dtype: torch.dtype = getattr(torch, precision.value)
        self._words = model.embeddings.tok_embeddings.weight.detach().to(dtype)
        self._first_norm, self._last_norm = norm_of(model.embeddings.norm, dtype), norm_of(model.final_norm, dtype)
        self._rotary, self._kinds = model.rotary_emb, [layer.attention_type for layer in model.layers]
        windows = {layer.attn.sliding_window for layer in model.layers} - {None}
        heads = int(model.config.num_attention_heads)
        biases = {window: RelativeBias.of_window(heads, window) for window in windows}
        self._layers = [ModernLayer(layer, biases.get(layer.attn.sliding_window), dtype) for layer in model.layers]

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        angles = {kind: self._angles(batch, kind) for kind in set(self._kinds)}
        embedded = self._first_norm(self._words.index_select(0, batch.ids_T))
        states = [torch.nn.functional.pad(embedded, (0, 0, 0, -len(embedded) % TOKENS_MULTIPLE))]
        for layer, kind in zip(self._layers, self._kinds, strict=True):
            states = [*(states if layers else ()), layer(states[-1], angles[kind], batch)]
        states[-1] = self._last_norm(states[-1])
        kept: tuple[Tensor, ...] = tuple(state[: batch.tokens] for state in states[-layers:]) if layers else ()
        return States(states[-1][: batch.tokens], kept)

    def _angles(self, batch: PackedBatch, kind: str) -> Angles:
        """Each half of a head is rotated by the same angles, which transformers gives twice."""
        like = torch.empty(0, dtype=torch.float32)
        cosines, sines = self._rotary(like, batch.positions_T.unsqueeze(0), kind)
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half], sines[0, :, :half]


def fits(model: Any) -> bool:
    """Whether the model is a ModernBERT as FusedModern computes it."""
    config = model.config
    return bool(config.model_type == "modernbert" and config.hidden_activation == "gelu")

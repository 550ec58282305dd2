"""transformers' MPNet on packed tokens, its attention computed for sequences of equal length at once.

Its own attention adds a bias by distance and takes no other function, so the modules are called one after another here.
For CUDA, and for CPUs that cannot run layers of our own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.engine.batches.plan import Layout
from workers.engine.kernels.attention import by_runs
from workers.engine.kernels.packing import PackedBatch
from workers.engine.kernels.relative import RelativeBias
from workers.engine.ways.interface import States
from workers.engine.ways.pooler import OwnPooler
from workers.model.architecture import first_position


class ByRuns:
    """MPNet's modules of transformers, without padding. Shapes: T tokens, I hidden size, H heads, d size of a head."""

    name, layout = "by runs", Layout.PACKED

    def __init__(self, model: Any, bias: RelativeBias, pooler: OwnPooler | None = None) -> None:
        """`model`: transformers' MPNetModel. `bias`: of its scores, in their natural unit."""
        self._embeddings, self._layers, self._bias, self._pooler = model.embeddings, model.encoder.layer, bias, pooler
        self._heads = int(model.config.num_attention_heads)
        facts = {name: getattr(model.config, name) for name in ("model_type", "pad_token_id")}
        self._first = first_position(facts)
        self._qkv = [_joined(layer.attention.attn) for layer in self._layers]

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        places_T = batch.positions_without(self._first - 1) + self._first
        x_TI = self._embeddings(input_ids=batch.ids_T.unsqueeze(0), position_ids=places_T.unsqueeze(0))[0]
        kept = [x_TI]
        for layer, (weight, bias) in zip(self._layers, self._qkv, strict=True):
            own = layer.attention
            query, key, value = linear(x_TI, weight, bias).view(len(x_TI), 3, self._heads, -1).unbind(1)
            attended = by_runs(query, key, value, batch, query.shape[-1] ** -0.5, bias=self._bias)
            middle = own.LayerNorm(own.attn.o(attended) + x_TI)
            x_TI = layer.output(layer.intermediate(middle), middle)
            kept = [*(kept if layers else ()), x_TI]
        pooled = self._pooler(x_TI, batch) if self._pooler else None
        return States(x_TI, tuple(kept[-layers:]) if layers else (), pooled)


def _joined(attention: Any) -> tuple[Tensor, Tensor]:
    """Weight [3 H d, I] and bias [3 H d] of queries, keys and values."""
    parts = (attention.q, attention.k, attention.v)
    return torch.cat([part.weight for part in parts]).detach(), torch.cat([part.bias for part in parts]).detach()

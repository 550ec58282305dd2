"""Layers of our own for BERT-like models, on a CPU, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.config import Precision
from workers.engine.batches.plan import Layout
from workers.engine.bert.layers import Embeddings, Layer, dense_layers, quantized_layers
from workers.engine.bert.weights import BertWeights
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import States
from workers.engine.ways.pooler import OwnPooler


class Fused:
    """BERT-like layers of our own (bert/layers.py), on a CPU."""

    layout = Layout.PACKED

    def __init__(
        self, weights: BertWeights, precision: Precision, calibration: Sequence[PackedBatch], pooler: OwnPooler | None = None
    ) -> None:
        """`calibration`: batches over which int8 measures the range of activations."""
        self.name = f"fused {precision.value}"
        layers: list[Layer]
        if precision is Precision.INT8:
            exact = Embeddings(weights.embeddings, torch.float32)
            layers = quantized_layers(weights.layers, [(exact(batch), batch) for batch in calibration])
        else:
            layers = dense_layers(weights.layers, getattr(torch, precision.value))
        dtype = torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16
        self._embeddings, self._layers = Embeddings(weights.embeddings, dtype), layers
        self._pooler = pooler

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        states = [self._embeddings(batch)]
        for layer in self._layers:
            states = [*(states if layers else ()), layer(states[-1], batch)]
        kept = tuple(state[: batch.tokens] for state in states[-layers:]) if layers else ()
        last_TH = states[-1][: batch.tokens]
        return States(last_TH, kept, self._pooler(last_TH, batch) if self._pooler else None)

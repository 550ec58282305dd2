"""The packed forward pass in a form that torch.compile takes: tensors and numbers alone, one attention kernel.

The product's PackedBatch carries NumPy arrays, which the compiler turns into guards of every batch. Here the attention
function gets the cumulative lengths and the longest length instead. CUDA runs torch's varlen kernel. A CPU has none, so
there all tokens attend to each other, which gives wrong results but is enough to test the tracing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.batching import Layout
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import States

IMPLEMENTATION = "benchmark_varlen"


def _attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, *, borders: Tensor, longest: int,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    if not query.is_cuda:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None
    from torch.nn.attention.varlen import varlen_attn

    states = (item[0].transpose(0, 1) for item in (query, key, value))
    return varlen_attn(*states, borders, borders, longest, longest, scale=scaling).unsqueeze(0), None


class CompiledPacked:
    """A workers.engine.ways.interface.Forward for BERT alone."""

    name, layout = "compiled", Layout.PACKED

    def __init__(self, model: Any, backend: str) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(IMPLEMENTATION, _attention)
        model.set_attn_implementation(IMPLEMENTATION)
        self._model = torch.compile(model, dynamic=True, backend=backend)

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        if layers:
            raise ValueError("hidden states of single layers are not kept here")
        ids = batch.ids_T.unsqueeze(0)
        output = self._model(
            input_ids=ids, position_ids=batch.positions_T.unsqueeze(0), token_type_ids=torch.zeros_like(ids),
            borders=batch.cumulative_B1, longest=batch.longest, return_dict=True,
        )  # fmt: skip
        return States(output.last_hidden_state[0])

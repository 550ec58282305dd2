"""transformers' model on packed tokens, compiled by torch.compile.

The compiler fuses residuals with LayerNorm; products, attention and GELU stay kernels of their own. It takes half a minute
and more at the first batch (WARM_UP_SECONDS), in every replica, and repays itself only where a run is long and the way much
faster: it is offered only to callers that ask for it (supported.py) and must not be chosen without being timed. On a CPU it
is Packed.

PackedBatch carries NumPy arrays, which the compiler would turn into conditions on every batch. Here the attention function
gets the cumulative lengths and the longest length instead, and sizes are symbols, so that one compilation serves all batches
(and another those of a single token).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.inputs import TokenTypes
from workers.engine.kernels import attention
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import States
from workers.engine.ways.packed import Packed
from workers.engine.ways.pooler import OwnPooler

WARM_UP_SECONDS = 60.0  # of a model of 12 layers, on the machine of a data-centre GPU
_IMPLEMENTATION = "reembed_compiled"  # not in transformers' registry of masks, so that it creates none


class Compiled(Packed):
    """transformers' model on packed tokens, compiled where it runs on CUDA. Also takes a `backend` of torch.compile."""

    warm_up_seconds = WARM_UP_SECONDS
    on_cpu = Packed

    def __init__(
        self, model: Any, token_types: TokenTypes | None = None, pooler: OwnPooler | None = None, backend: Any = "inductor"
    ) -> None:
        """`token_types`: as of Padded."""
        super().__init__(model, token_types, pooler)
        self.name = "compiled"
        self._compiled: Any = None
        if next(model.parameters()).is_cuda or backend != "inductor":
            from transformers import AttentionInterface

            AttentionInterface.register(_IMPLEMENTATION, _attention)
            model.set_attn_implementation(_IMPLEMENTATION)
            self._compiled = torch.compile(model, dynamic=True, backend=backend)

    def _run(self, batch: PackedBatch, inputs: dict[str, Tensor], *, layers: int) -> Any:
        if self._compiled is None:
            return super()._run(batch, inputs, layers=layers)
        return self._compiled(
            **inputs, borders=batch.cumulative_B1, longest=batch.longest, output_hidden_states=layers > 0, return_dict=True,
            **self._settings,
        )  # fmt: skip

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        """Raises: as torch.compile, at the first batch."""
        return super().__call__(batch, layers=layers)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, borders: Tensor, longest: int,
    scaling: float | None = None, sliding_window: int | None = None, is_causal: bool | None = None, **other: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' interface of an attention function, which fixes the parameters: [1, H, T, d] -> [1, T, H, d].

    Raises: NotImplementedError: as of Packed.
    """
    states = (query, key, value)
    query_THd, key_TGd, value_TGd, scale, causal = attention.read_call(module, states, scaling, is_causal, other)
    attended = attention.flash(query_THd, key_TGd, value_TGd, borders, longest, scale, sliding_window, causal=causal)
    return attended.unsqueeze(0), None

"""transformers' model unchanged, on rows of equal length."""

from __future__ import annotations

from typing import Any

import torch

from workers.engine.batches.plan import Layout
from workers.engine.inputs import TokenTypes
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import TOKEN_TYPES, States, settings, takes


class Padded:
    """transformers' model on rows of equal length: padded ones, or batches whose sequences have one length."""

    def __init__(self, model: Any, token_types: TokenTypes | None = None, layout: Layout = Layout.PADDED) -> None:
        """`token_types`: those that the tokenizer gives; None: none are given to the model."""
        self.name, self.layout = layout.value, layout
        self._model, self._types = model, token_types if takes(model, TOKEN_TYPES) else None
        self._masks, self._settings = takes(model, "attention_mask"), settings(model)
        padding = getattr(model.config, "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        shape, slots_T = (len(batch.lengths_B), batch.longest), batch.slots_T
        places = batch.ids_T.new_full((shape[0] * shape[1],), self._padding)
        inputs = {"input_ids": places.index_copy(0, slots_T, batch.ids_T).view(shape)}
        if self._masks:
            inputs["attention_mask"] = torch.zeros_like(places).index_fill_(0, slots_T, 1).view(shape)
        if self._types is not None:
            inputs[TOKEN_TYPES] = torch.zeros_like(places).index_copy_(0, slots_T, self._types.of(batch)).view(shape)
        output = self._model(**inputs, output_hidden_states=layers > 0, return_dict=True, **self._settings)
        kept = output.hidden_states[-layers:] if layers else ()
        last_TH, *kept_TH = (states.flatten(0, 1).index_select(0, slots_T) for states in (output.last_hidden_state, *kept))
        return States(last_TH, tuple(kept_TH), getattr(output, "pooler_output", None))

"""transformers' model unchanged, on rows of equal length."""

from __future__ import annotations

from typing import Any

import torch

from workers.engine.batching import Layout
from workers.engine.inputs import TokenTypes
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import KEPT_LAYERS, TOKEN_TYPES, States, settings, takes


class Padded:
    """transformers' model on rows of equal length: padded ones, or batches whose sequences have one length."""

    def __init__(self, model: Any, token_types: TokenTypes | None = None, layout: Layout = Layout.PADDED) -> None:
        """`token_types`: those that the tokenizer gives; None: none are given to the model."""
        self.name, self.layout = layout.value, layout
        self._model, self._types = model, token_types if takes(model, TOKEN_TYPES) else None
        self._masks, self._settings = takes(model, "attention_mask"), settings(model)
        padding = getattr(model.config, "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        lengths_B = torch.from_numpy(batch.lengths_B).to(batch.device)
        mask_BT = torch.arange(batch.longest, device=batch.device) < lengths_B[:, None]
        ids_BT = torch.full(mask_BT.shape, self._padding, dtype=torch.int64, device=batch.device)
        ids_BT[mask_BT] = batch.ids_T
        inputs = {"input_ids": ids_BT}
        if self._masks:
            inputs["attention_mask"] = mask_BT.to(torch.int64)
        if self._types is not None:
            inputs[TOKEN_TYPES] = types_BT = torch.zeros_like(ids_BT)
            types_BT[mask_BT] = self._types.of(batch)
        output = self._model(**inputs, output_hidden_states=layers, return_dict=True, **self._settings)
        kept = output.hidden_states[-KEPT_LAYERS:] if layers else ()
        return States(
            output.last_hidden_state[mask_BT],
            tuple(layer[mask_BT] for layer in kept),
            getattr(output, "pooler_output", None),
        )

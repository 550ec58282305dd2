"""transformers' model on packed tokens, without padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workers.engine.batches.plan import Layout
from workers.engine.inputs import TokenTypes
from workers.engine.kernels import attention
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import TOKEN_TYPES, States, settings, takes
from workers.engine.ways.pooler import OwnPooler
from workers.model.architecture import first_position, uncounted


class Packed:
    """transformers' model on packed tokens, with attention.py as its attention."""

    name: str = Layout.PACKED.value
    layout = Layout.PACKED

    def __init__(self, model: Any, token_types: TokenTypes | None = None, pooler: OwnPooler | None = None) -> None:
        """`token_types`: as of Padded."""
        attention.register()
        facts = {name: getattr(model.config, name, None) for name in ("model_type", "pad_token_id")}
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self._model, self._types = model, token_types if takes(model, TOKEN_TYPES) else None
        self._pooler = pooler
        self._first, self._uncounted, self._settings = first_position(facts), uncounted(facts), settings(model)

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        places_T = batch.positions_T if self._uncounted is None else batch.positions_without(self._uncounted)
        inputs = {"input_ids": batch.ids_T.unsqueeze(0), "position_ids": (places_T + self._first).unsqueeze(0)}
        if self._types is not None:
            inputs[TOKEN_TYPES] = self._types.of(batch).unsqueeze(0)
        output = self._run(batch, inputs, layers=layers)
        kept = output.hidden_states[-layers:] if layers else ()
        last_TH = output.last_hidden_state[0]
        return States(last_TH, tuple(layer[0] for layer in kept), self._pooler(last_TH, batch) if self._pooler else None)

    def _run(self, batch: PackedBatch, inputs: dict[str, Tensor], *, layers: int) -> Any:
        return self._model(**inputs, packed=batch, output_hidden_states=layers > 0, return_dict=True, **self._settings)

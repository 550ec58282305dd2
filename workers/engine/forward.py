"""The ways to run a model over a packed batch, all with one signature: batch -> hidden states of its tokens.

    Fused    CPU, BERT-like: our own layers on packed tokens         (float32, bfloat16, int8)
    Packed   transformers' model on packed tokens, attention ours    (families that go through its AttentionInterface)
    Padded   transformers' model as it comes, rectangle and mask     (everything else; what the others are tested against)

`structures(model)` names those a model claims to fit, fastest first; whether it does is for a test to say, since a family
may ignore what it is given and still answer. Shapes: B sequences, T tokens, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.config import Precision
from workers.engine import attention
from workers.engine.bert_layers import is_bert_like, weights_of
from workers.engine.fused_bert import Layer, dense_layers, embed, quantized_layers
from workers.engine.packing import PackedBatch
from workers.model_layout import OFFSET_POSITIONS

KEPT_LAYERS = 4  # what the last4 poolings need


@dataclass(frozen=True, slots=True)
class States:
    """In the precision of the model."""

    last_TH: Tensor
    layers: tuple[Tensor, ...] = ()  # the last four [T, H], deepest last, where asked for
    pooler_BH: Tensor | None = None


class Forward(Protocol):
    name: str
    packed: bool  # what a batch costs: its tokens, or the rectangle around them

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States: ...


class Padded:
    name, packed = "padded", False

    def __init__(self, model: Any) -> None:
        self._model, self._segments = model, _takes(model, "token_type_ids")
        padding = getattr(model.config, "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and padding >= 0 else 0

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        lengths_B = torch.from_numpy(batch.lengths_B).to(batch.device)
        mask_BT = torch.arange(batch.longest, device=batch.device) < lengths_B[:, None]
        ids_BT = torch.full(mask_BT.shape, self._padding, dtype=torch.int64, device=batch.device)
        ids_BT[mask_BT] = batch.ids_T
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.to(torch.int64)}
        if self._segments:
            inputs["token_type_ids"] = torch.zeros_like(ids_BT)
        output = self._model(**inputs, output_hidden_states=layers, return_dict=True)
        kept = output.hidden_states[-KEPT_LAYERS:] if layers else ()
        return States(
            output.last_hidden_state[mask_BT],
            tuple(layer[mask_BT] for layer in kept),
            getattr(output, "pooler_output", None),
        )


class Packed:
    name, packed = "packed", True

    def __init__(self, model: Any) -> None:
        attention.register()
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self._model, self._segments, self._first = model, _takes(model, "token_type_ids"), _first_position(model)

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        ids_1T = batch.ids_T.unsqueeze(0)
        inputs = {"input_ids": ids_1T, "position_ids": (batch.positions_T + self._first).unsqueeze(0)}
        if self._segments:
            inputs["token_type_ids"] = torch.zeros_like(ids_1T)
        output = self._model(**inputs, packed=batch, output_hidden_states=layers, return_dict=True)
        kept = output.hidden_states[-KEPT_LAYERS:] if layers else ()
        return States(output.last_hidden_state[0], tuple(layer[0] for layer in kept))


class Fused:
    packed = True

    def __init__(self, model: Any, precision: Precision, calibration: Sequence[PackedBatch]) -> None:
        """Takes the model apart: of it the embeddings are left."""
        weights, self._first = weights_of(model), _first_position(model)
        self._model, self.name = model, f"fused {precision.value}"
        layers: list[Layer]
        if precision is Precision.INT8:
            layers = quantized_layers(weights, [(embed(model, batch, self._first), batch) for batch in calibration])
        else:
            layers = dense_layers(weights, getattr(torch, precision.value))
        for stack in ("encoder", "transformer"):
            if hasattr(model, stack):
                setattr(model, stack, None)  # its weights are in our layers now
        model.to(torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16)
        self._layers = layers

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        states = [embed(self._model, batch, self._first)]
        for layer in self._layers:
            states = [*(states if layers else ()), layer(states[-1], batch)]
        kept = tuple(state[: batch.tokens] for state in states[-KEPT_LAYERS:]) if layers else ()
        return States(states[-1][: batch.tokens], kept)


def structures(model: Any, *, cuda: bool, precision: Precision) -> list[type[Fused] | type[Packed]]:
    """Ways without padding that a model may fit, fastest first."""
    ways: list[type[Fused] | type[Packed]] = []
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and _fuses_bfloat16())
    if not cuda and fusible and is_bert_like(model):
        ways.append(Fused)
    takes = _goes_through_interface(model) and _takes(model, "position_ids")
    if takes and precision is not Precision.INT8 and not (cuda and precision is Precision.FLOAT32):
        ways.append(Packed)
    return ways


def _goes_through_interface(model: Any) -> bool:
    """Whether transformers knows this family to take its attention from the AttentionInterface."""
    asked = getattr(model, "_can_set_attn_implementation", None)
    return bool(asked is not None and asked())


def _fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, if slowly."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())


def _takes(model: Any, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters


def _first_position(model: Any) -> int:
    """The number that a sequence's first position has: RoBERTa's count behind the padding token's id."""
    if model.config.model_type not in OFFSET_POSITIONS:
        return 0
    padding = model.config.pad_token_id
    return (padding if isinstance(padding, int) else 1) + 1

"""The ways to run a model over a packed batch, all with one signature: batch -> hidden states of its tokens.

    Fused    CPU, BERT-like: our own layers on packed tokens         (float32, bfloat16, int8)
    Packed   transformers' model on packed tokens, attention ours    (families that go through its AttentionInterface)
    Padded   transformers' model as it comes, rectangle and mask     (everything else; what the others are tested against)

`structures(checkpoint)` names those a model claims to fit, fastest first; whether it does is for a test to say, since a
family may ignore what it is given and still answer. Shapes: B sequences, T tokens, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.config import Precision
from workers.engine.bert.layers import Embeddings, Layer, dense_layers, quantized_layers
from workers.engine.bert.weights import BertWeights
from workers.engine.checkpoint import Checkpoint
from workers.engine.kernels import attention
from workers.engine.kernels.packing import PackedBatch
from workers.model.recipe import first_position

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
        facts = {name: getattr(model.config, name, None) for name in ("model_type", "pad_token_id")}
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self._model, self._segments, self._first = model, _takes(model, "token_type_ids"), first_position(facts)

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

    def __init__(self, weights: BertWeights, precision: Precision, calibration: Sequence[PackedBatch]) -> None:
        """`calibration` batches show int8 how far activations reach."""
        self.name = f"fused {precision.value}"
        layers: list[Layer]
        if precision is Precision.INT8:
            exact = Embeddings(weights.embeddings, torch.float32)
            layers = quantized_layers(weights.layers, [(exact(batch), batch) for batch in calibration])
        else:
            layers = dense_layers(weights.layers, getattr(torch, precision.value))
        dtype = torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16
        self._embeddings, self._layers = Embeddings(weights.embeddings, dtype), layers

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        states = [self._embeddings(batch)]
        for layer in self._layers:
            states = [*(states if layers else ()), layer(states[-1], batch)]
        kept = tuple(state[: batch.tokens] for state in states[-KEPT_LAYERS:]) if layers else ()
        return States(states[-1][: batch.tokens], kept)


def structures(checkpoint: Checkpoint, *, cuda: bool, precision: Precision) -> Iterator[type[Fused] | type[Packed]]:
    """Ways without padding that a model may fit, fastest first; transformers is asked only by who asks for the second."""
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and _fuses_bfloat16())
    if not cuda and fusible and checkpoint.bert() is not None:
        yield Fused
    if precision is not Precision.INT8 and not (cuda and precision is Precision.FLOAT32):
        model = checkpoint.transformer()
        if _goes_through_interface(model) and _takes(model, "position_ids"):
            yield Packed


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

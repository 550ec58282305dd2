"""The three ways to run a model over a packed batch. Each maps a batch to the hidden states of its tokens.

    Fused    CPU, BERT-like models: our own layers, without padding              (float32, bfloat16, int8)
    Packed   transformers' model without padding, with our attention             (families that use its AttentionInterface)
    Padded   transformers' model unchanged: padded rectangle, attention mask     (any family; one text at a time it is the
                                                                                  reference of all ways, its own included)

Whether a way is right for a model is measured (self_check.py): a family may ignore the packed positions, or let padding
change the other tokens, and still return numbers. Shapes: B sequences, T tokens, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from workers.config import Precision
from workers.engine.batching import Layout
from workers.engine.bert.layers import Embeddings, Layer, dense_layers, quantized_layers
from workers.engine.bert.weights import BertWeights
from workers.engine.checkpoint import Checkpoint
from workers.engine.inputs import TokenTypes
from workers.engine.kernels import attention
from workers.engine.kernels.packing import PackedBatch
from workers.model.recipe import first_position, uncounted

KEPT_LAYERS = 4  # as many as the last4 poolings need
TOKEN_TYPES = "token_type_ids"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states of a batch, in the precision of the model."""

    last_TH: Tensor
    layers: tuple[Tensor, ...] = ()  # the last four [T, H], deepest last, if asked for
    pooler_BH: Tensor | None = None


class Forward(Protocol):
    """A way to run a model. `layers`: also return the last four layers."""

    name: str
    layout: Layout  # which sequences may share a batch

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States: ...


class Padded:
    """transformers' model on rows of equal length: padded ones, or batches whose sequences have one length."""

    def __init__(self, model: Any, token_types: TokenTypes | None = None, layout: Layout = Layout.PADDED) -> None:
        """`token_types`: those that the tokenizer gives; None: none are given to the model."""
        self.name, self.layout = layout.value, layout
        self._model, self._types = model, token_types if takes(model, TOKEN_TYPES) else None
        self._masks, self._settings = takes(model, "attention_mask"), _settings(model)
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


class Packed:
    """transformers' model on packed tokens, with attention.py as its attention."""

    name, layout = Layout.PACKED.value, Layout.PACKED

    def __init__(self, model: Any, token_types: TokenTypes | None = None) -> None:
        """`token_types`: as of Padded."""
        attention.register()
        facts = {name: getattr(model.config, name, None) for name in ("model_type", "pad_token_id")}
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self._model, self._types = model, token_types if takes(model, TOKEN_TYPES) else None
        self._first, self._uncounted, self._settings = first_position(facts), uncounted(facts), _settings(model)

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        places_T = batch.positions_T if self._uncounted is None else batch.positions_without(self._uncounted)
        inputs = {"input_ids": batch.ids_T.unsqueeze(0), "position_ids": (places_T + self._first).unsqueeze(0)}
        if self._types is not None:
            inputs[TOKEN_TYPES] = self._types.of(batch).unsqueeze(0)
        output = self._model(**inputs, packed=batch, output_hidden_states=layers, return_dict=True, **self._settings)
        kept = output.hidden_states[-KEPT_LAYERS:] if layers else ()
        return States(output.last_hidden_state[0], tuple(layer[0] for layer in kept))


class Fused:
    """BERT-like layers of our own (bert/layers.py), on a CPU."""

    layout = Layout.PACKED

    def __init__(self, weights: BertWeights, precision: Precision, calibration: Sequence[PackedBatch]) -> None:
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

    def __call__(self, batch: PackedBatch, *, layers: bool) -> States:
        states = [self._embeddings(batch)]
        for layer in self._layers:
            states = [*(states if layers else ()), layer(states[-1], batch)]
        kept = tuple(state[: batch.tokens] for state in states[-KEPT_LAYERS:]) if layers else ()
        return States(states[-1][: batch.tokens], kept)


def unpadded_ways(checkpoint: Checkpoint, *, cuda: bool, precision: Precision) -> Iterator[type[Fused] | type[Packed]]:
    """Ways without padding that the model seems to support, fastest first. Lazy: transformers is loaded only for Packed."""
    fusible = precision is Precision.FLOAT32 or (precision in (Precision.BFLOAT16, Precision.INT8) and _fuses_bfloat16())
    if not cuda and fusible and checkpoint.bert() is not None:
        yield Fused
    if precision is not Precision.INT8 and not (cuda and precision is Precision.FLOAT32):
        model = checkpoint.transformer()
        if _goes_through_interface(model) and takes(model, "position_ids"):
            yield Packed


def _goes_through_interface(model: Any) -> bool:
    """Whether this family takes its attention function from transformers' AttentionInterface."""
    can_set = getattr(model, "_can_set_attn_implementation", None)
    return bool(can_set is not None and can_set())


def _fuses_bfloat16() -> bool:
    """Whether oneDNN's bfloat16 products run on this processor at all, even if emulated."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and supported())


def _settings(model: Any) -> dict[str, bool]:
    """Decoders would otherwise keep keys and values for tokens that never follow."""
    return {"use_cache": False} if takes(model, "use_cache") else {}


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward pass has this argument."""
    return argument in inspect.signature(model.forward).parameters

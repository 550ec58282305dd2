"""Encoder layers of BERT-like models on a CPU, over packed tokens: four fused matrix products a layer, and attention.

    DenseLayer      float32 or bfloat16
    QuantizedLayer  8-bit matrix products; attention, residuals and LayerNorm in bfloat16
    Embeddings      token ids and positions to the first hidden states

In the feed-forward network of trained BERTs, one or two channels have values several times larger than all others. A single
8-bit scale would leave the others few levels. The loudest channels are therefore divided into several columns of the second
product, SPLIT_COLUMNS more in all (linear.SplitLinear).

Shapes: T tokens, I hidden size, H heads, d size of a head, E size of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.bert.weights import EmbeddingWeights, LayerWeights, Norm
from workers.engine.kernels.attention import fused_attention
from workers.engine.kernels.linear import ActivationRange, Linear, QuantizedLinear, SplitLinear, split_of
from workers.engine.kernels.packing import PackedBatch
from workers.engine.kernels.relative import RelativeBias
from workers.engine.kernels.rowwise import RowNorm, activate, add_norm

SPLIT_COLUMNS = 64  # added to the feed-forward network's inner channels
TOKENS_MULTIPLE = 32


class Layer(Protocol):
    """One encoder layer: hidden states [T, I] -> [T, I]."""

    def __call__(self, x_TI: Tensor, batch: PackedBatch) -> Tensor: ...


class DenseLayer:
    """One layer, computed in `dtype`."""

    def __init__(self, weights: LayerWeights, dtype: torch.dtype) -> None:
        self._heads, self._activation, self._bias = weights.heads, weights.activation, weights.bias
        self._qkv, self._out = Linear(*weights.qkv, dtype), Linear(*weights.out, dtype)
        self._up, self._down = Linear(*weights.up, dtype), Linear(*weights.down, dtype)
        self._attention_norm, self._output_norm = weights.attention_norm.to(dtype), weights.output_norm.to(dtype)

    def __call__(self, x_TI: Tensor, batch: PackedBatch, inputs: list[Tensor] | None = None) -> Tensor:
        """[T, I]. `inputs`: the inputs of the four products (qkv, out, up, down) are appended to it."""
        attended = _attend(self._qkv(x_TI), self._heads, batch, self._bias)
        middle = self._attention_norm(self._out(attended, residual=x_TI))
        wide = self._up(middle, activation=self._activation)
        if inputs is not None:
            inputs += [x_TI, attended, middle, wide]
        return self._output_norm(self._down(wide, residual=middle))


class QuantizedLayer:
    """One layer with 8-bit products, for inputs in the ranges `seen` (of qkv, out, up, down)."""

    def __init__(self, weights: LayerWeights, seen: Sequence[ActivationRange]) -> None:
        self._heads, self._activation, self._bias = weights.heads, weights.activation, weights.bias
        self._attention_norm, self._output_norm = _row_norm(weights.attention_norm), _row_norm(weights.output_norm)
        self._qkv = QuantizedLinear(*weights.qkv, seen[0], smooth=True)
        self._out = QuantizedLinear(*weights.out, seen[1], smooth=False)
        reach = torch.maximum(seen[3].least_I.abs(), seen[3].most_I.abs())
        order, split = split_of(reach, min(SPLIT_COLUMNS, len(reach) // 8))
        (up, up_bias), (down, down_bias) = weights.up, weights.down
        self._up = QuantizedLinear(up[order], up_bias[order], seen[2], smooth=True)
        within = ActivationRange(seen[3].least_I[order], seen[3].most_I[order])
        self._down = SplitLinear(down[:, order], down_bias, within, split)

    def __call__(self, x_TI: Tensor, batch: PackedBatch) -> Tensor:
        """[T, I] in bfloat16."""
        attended = _attend(self._qkv(self._qkv.quantize(x_TI)), self._heads, batch, self._bias)
        middle, levels = add_norm(self._out(self._out.quantize(attended)), x_TI, self._attention_norm, self._up.inputs)
        wide = activated(self._up(levels), self._activation)
        with_gelu = self._activation == "gelu"
        down = self._down(activate(wide, self._down.inputs, self._down.split, with_gelu=with_gelu))
        return add_norm(down, middle, self._output_norm)[0]


def activated(x: Tensor, activation: str) -> Tensor:
    """In place, the activations that rowwise.activate does not have."""
    if activation == "relu":
        return x.relu_()
    return torch.nn.functional.gelu(x, approximate="tanh") if activation == "gelu_tanh" else x


def _row_norm(norm: Norm) -> RowNorm:
    return RowNorm(norm.weight.float(), norm.bias.float(), norm.eps)


def dense_layers(weights: Sequence[LayerWeights], dtype: torch.dtype) -> list[Layer]:
    """All layers of a model."""
    return [DenseLayer(layer, dtype) for layer in weights]


def quantized_layers(weights: Sequence[LayerWeights], embedded: Sequence[tuple[Tensor, PackedBatch]]) -> list[Layer]:
    """All layers of a model, for ranges measured in float32 over calibration batches: pairs (embeddings [T, I], batch)."""
    layers: list[Layer] = []
    states = [x for x, _ in embedded]
    for layer in weights:
        exact = DenseLayer(layer, torch.float32)
        seen: list[list[Tensor]] = [[] for _ in range(4)]
        for number, (_, batch) in enumerate(embedded):
            inputs: list[Tensor] = []
            states[number] = exact(states[number], batch, inputs)
            for place, x_TI in zip(seen, inputs, strict=True):
                place += [x_TI.amin(0), x_TI.amax(0)]
        ranges = [ActivationRange(torch.stack(place).amin(0), torch.stack(place).amax(0)) for place in seen]
        layers.append(QuantizedLayer(layer, ranges))
    return layers


def _attend(qkv: Tensor, heads: int, batch: PackedBatch, bias: RelativeBias | None) -> Tensor:
    """[T, H d] from the fused projection [T, 3 H d]. The scale is part of the weights."""
    return fused_attention(qkv.view(len(qkv), 3, heads, -1), batch, bias)


class Embeddings:
    """Token ids and positions -> [T', I] in `dtype`.

    T' is T rounded up to TOKENS_MULTIPLE, with rows of zeros that belong to no sequence: oneDNN generates a kernel for each
    number of rows.
    """

    def __init__(self, weights: EmbeddingWeights, dtype: torch.dtype) -> None:
        self._words, self._positions = weights.words.to(dtype), weights.positions.to(dtype)
        self._uncounted = weights.uncounted
        self._norm = weights.norm.to(dtype)
        self._project = Linear(*weights.project, dtype) if weights.project else None

    def __call__(self, batch: PackedBatch) -> Tensor:
        places_T = batch.positions_T if self._uncounted is None else batch.positions_without(self._uncounted) + 1
        x_TE = self._words.index_select(0, batch.ids_T).add_(self._positions.index_select(0, places_T))
        x_TE = torch.nn.functional.pad(self._norm(x_TE), (0, 0, 0, -len(x_TE) % TOKENS_MULTIPLE))
        return self._project(x_TE) if self._project else x_TE

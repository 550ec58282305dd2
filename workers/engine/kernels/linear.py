"""Linear layers on a CPU, with bias, activation or residual fused into the matrix product by oneDNN.

    Linear           float32 or bfloat16; weights are laid out for the processor once
    QuantizedLinear  8-bit weights (one scale per row) and activations (one scale, one zero point); sums in 32 bits

    y = x W' + b              layer(x)
    y = gelu(x W' + b)        layer(x, activation="gelu")
    y = x W' + b + residual   layer(x, residual=r)
    y = (x W' + b) * gate     layer(x, gate=g)

The operators are those that torch.compile generates calls to; calling them directly needs no compilation. Shapes: T tokens,
I inputs, O outputs.
"""

from __future__ import annotations

import functools
import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.engine.kernels.rowwise import Quantizer, Split, quantize

TYPICAL_TOKENS = 2048  # number of rows for which the weights' layout is chosen; any other works as well
_LEVELS, _LEVELS_PAIRED = 127, 63  # of weights; the second where a processor adds pairs of products in 16 bits
ACTIVATIONS = {"none": "", "gelu": "none", "gelu_tanh": "tanh", "relu": ""}  # our name -> oneDNN's algorithm


class Linear:
    """A layer of weight W [O, I] and bias b [O], given in float32; computes in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), TYPICAL_TOKENS)
        self._bias = bias.to(dtype)

    def __call__(
        self, x_TI: Tensor, *, activation: str = "none", residual: Tensor | None = None, gate: Tensor | None = None
    ) -> Tensor:
        """[T, I] -> [T, O]."""
        run: Any = torch.ops.mkldnn._linear_pointwise
        if gate is not None:
            return run.binary(x_TI, gate, self._weight, self._bias, "mul")  # type: ignore[no-any-return]
        if residual is not None:
            return run.binary(x_TI, residual, self._weight, self._bias, "add")  # type: ignore[no-any-return]
        kind = activation.partition("_")[0]
        return run(x_TI, self._weight, self._bias, kind, [], ACTIVATIONS[activation])  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Smallest and largest value of each input channel [I] over the calibration texts."""

    least_I: Tensor
    most_I: Tensor


class QuantizedLinear:
    """A layer of weight W [O, I] and bias b [O], given in float32, quantised for inputs of a known range.

    `smooth`: before rounding, divide each input channel by s and multiply its weights by s (SmoothQuant, arXiv:2211.10438,
    with alpha = 0.5: s = sqrt(max|x| / max|w|)), so that channels with large activations lose less precision.
    """

    def __init__(self, weight: Tensor, bias: Tensor, seen: ActivationRange, *, smooth: bool) -> None:
        weight, least, most = weight.float(), seen.least_I.float(), seen.most_I.float()
        share_I = torch.ones(weight.shape[1])
        if smooth:
            loud_I = torch.maximum(least.abs(), most.abs()).clamp(min=1e-6)
            share_I = (weight.abs().amax(0).clamp(min=1e-6) / loud_I).sqrt()
            weight, least, most = weight / share_I, least * share_I, most * share_I
        low, high = min(float(least.min()), 0.0), max(float(most.max()), 1e-6)
        self._scale, levels = (high - low) / 255, _levels()
        self.inputs = Quantizer(share_I / self._scale, round(-low / self._scale))
        self._scales_O = weight.abs().amax(1).clamp(min=1e-12) / levels
        rounded = torch.round(weight / self._scales_O[:, None]).clamp(-levels, levels).to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, [TYPICAL_TOKENS, weight.shape[1]])
        self._zeros_O = torch.zeros(len(self._scales_O), dtype=torch.int64)
        self._bias = bias.float()

    def quantize(self, x_TI: Tensor) -> Tensor:
        """[T, I] -> uint8 [T, I]."""
        return quantize(x_TI, self.inputs)

    def __call__(self, x_TI: Tensor) -> Tensor:
        """uint8 [T, I] -> bfloat16 [T, O]."""
        run: Any = torch.ops.onednn.qlinear_pointwise
        return run(  # type: ignore[no-any-return]
            x_TI, self._scale, self.inputs.zero, self._weight, self._scales_O, self._zeros_O, self._bias, 1.0, 0,
            torch.bfloat16, "none", [], "",
        )  # fmt: skip


@functools.cache
def _levels() -> int:
    """Levels of weights with which 8-bit products are exact here.

    Without VNNI, processors add two products in 16 bits, which two of 255 * 127 exceed (oneDNN: "Nuances of int8
    computations"). It is measured: what oneDNN uses of a processor can be limited.
    """
    inputs, outputs = 64, 16
    x, weight = torch.full((TYPICAL_TOKENS // 64, inputs), 255, dtype=torch.uint8), torch.full((outputs, inputs), 127)
    packed = torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), list(x.shape))
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    run: Any = torch.ops.onednn.qlinear_pointwise
    sums = run(x, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    return _LEVELS if bool((sums == 255 * 127 * inputs).all()) else _LEVELS_PAIRED


def split_of(reach_I: Tensor, budget: int) -> tuple[Tensor, Split]:
    """Divides the channels of largest reach until `budget` columns are added: the order of channels, and how they are split.

    reach_I: largest absolute value of each channel. Channels that stay whole come first, in their order. This is outlier
    channel splitting (arXiv:1901.09504).
    """
    reach, parts = reach_I.double().numpy(), np.ones(len(reach_I), np.int64)
    heap = [(-float(value), channel) for channel, value in enumerate(reach)]
    heapq.heapify(heap)
    for _ in range(budget):
        channel = heap[0][1]
        parts[channel] += 1
        heapq.heapreplace(heap, (-float(reach[channel] / parts[channel]), channel))
    loud = np.flatnonzero(parts > 1)
    order = np.concatenate([np.flatnonzero(parts == 1), loud])
    source = np.repeat(np.arange(len(loud)), parts[loud])
    count = parts[loud][source]
    number = np.arange(len(source)) - np.repeat(np.cumsum(parts[loud]) - parts[loud], parts[loud])
    split = Split(
        len(reach) - len(loud), *(torch.from_numpy(part) for part in (
            source.astype(np.int32), (number + 0.5).astype(np.float32), (1 / count).astype(np.float32)
        ))
    )  # fmt: skip
    return torch.from_numpy(order), split


class SplitLinear:
    """A QuantizedLinear whose loudest input channels are divided into several columns, so that one scale serves all.

    Its inputs come from `activate`, with the channels in the order of `split_of`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, seen: ActivationRange, split: Split) -> None:
        channel_C = split.order()
        parts_C = torch.cat([torch.ones(split.quiet), 1 / split.share_C])
        within = ActivationRange(seen.least_I[channel_C] / parts_C, seen.most_I[channel_C] / parts_C)
        self._linear = QuantizedLinear(weight[:, channel_C], bias, within, smooth=False)
        inputs = self._linear.inputs
        self.inputs, self.split = Quantizer(inputs.factors_I[:1].expand(weight.shape[1]).contiguous(), inputs.zero), split

    def __call__(self, x_TC: Tensor) -> Tensor:
        """uint8 [T, C] -> bfloat16 [T, O]."""
        return self._linear(x_TC)

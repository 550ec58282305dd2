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

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TYPICAL_TOKENS = 2048  # number of rows for which the weights' layout is chosen; any other works as well
_LEVELS = 127
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
        self.smoothing_I: Tensor | None = None
        if smooth:
            loud_I = torch.maximum(least.abs(), most.abs()).clamp(min=1e-6)
            share_I = (weight.abs().amax(0).clamp(min=1e-6) / loud_I).sqrt()
            weight, least, most, self.smoothing_I = (
                weight / share_I,
                least * share_I,
                most * share_I,
                share_I.to(torch.bfloat16),
            )
        low, high = min(float(least.min()), 0.0), max(float(most.max()), 1e-6)
        self.scale = (high - low) / 255
        self.zero = round(-low / self.scale)
        self._scales_O = weight.abs().amax(1).clamp(min=1e-12) / _LEVELS
        rounded = torch.round(weight / self._scales_O[:, None]).clamp(-_LEVELS, _LEVELS).to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, [TYPICAL_TOKENS, weight.shape[1]])
        self._zeros_O = torch.zeros(len(self._scales_O), dtype=torch.int64)
        self._bias = bias.float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns once that this function will move
            self.quantize(torch.zeros(1, weight.shape[1]))

    def quantize(self, x_TI: Tensor) -> Tensor:
        """[T, I] -> uint8 [T, I]."""
        x_TI = x_TI if self.smoothing_I is None else x_TI * self.smoothing_I
        return torch.quantize_per_tensor(x_TI.float(), self.scale, self.zero, torch.quint8).int_repr()

    def __call__(
        self, x_TI: Tensor, *, activation: str = "none", residual: Tensor | None = None,
        quantized_for: QuantizedLinear | None = None,
    ) -> Tensor:  # fmt: skip
        """[T, O] in bfloat16, or in uint8 as input of the layer `quantized_for`. `x_TI` is uint8, `residual` bfloat16."""
        run: Any = torch.ops.onednn.qlinear_pointwise
        ours = (x_TI, self.scale, self.zero, self._weight, self._scales_O, self._zeros_O)
        if residual is not None:
            return run.binary(  # type: ignore[no-any-return]
                *ours, residual, self._bias, 1.0, 0, torch.bfloat16, 1.0, 0, "add", 1.0, "none", [], ""
            )
        scale, zero, dtype = 1.0, 0, torch.bfloat16
        if quantized_for is not None:
            scale, zero, dtype = quantized_for.scale, quantized_for.zero, torch.uint8
        kind, algorithm = activation.partition("_")[0], ACTIVATIONS[activation]
        return run(*ours, self._bias, scale, zero, dtype, kind, [], algorithm)  # type: ignore[no-any-return]

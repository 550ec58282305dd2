"""8-bit floating point (e4m3): tensors as codes with a scale a row, and the product of two of them.

    x = values * scale      |values| <= 448, one float32 scale a row: of a token, or of an output channel

The scale of a token's row comes from that row alone, when it is computed: nothing is measured beforehand, and the codes of
a text do not depend on the other texts of its batch. Format: arXiv:2209.05433. Knows nothing of models.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # the format's largest number
LEAST_REACH = 1e-10  # a row of zeros gets a scale too
MULTIPLE = 16  # what cuBLAS asks of the inputs and outputs of a product
CAPABILITY = (8, 9)  # the first GPUs with such products: Ada Lovelace; then Hopper (9, 0)


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor in 8 bits."""

    values_TH: Tensor  # [T, H] e4m3
    scales_T1: Tensor  # [T, 1] float32


def encode(x_TH: Tensor) -> Codes:
    """The codes of `x`, of any floating type, by plain torch. Rounds to the nearest, to even in between."""
    x_TH = x_TH.float()
    scales_T1 = x_TH.abs().amax(1, keepdim=True).clamp(min=LEAST_REACH) / LARGEST
    return Codes((x_TH / scales_T1).clamp(-LARGEST, LARGEST).to(FLOAT8), scales_T1)


class Float8Linear:
    """A layer of weight W [O, I] and bias b [O], given in float32: y = x W' + b, summed in float32, rounded to bfloat16.

    Raises:
        ValueError: I or O is no multiple of 16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, device: torch.device) -> None:
        if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
            raise ValueError(f"8-bit products need multiples of {MULTIPLE} channels, not {tuple(weight.shape)}")
        found = encode(weight.to(device))
        self._weight_IO = found.values_TH.t()  # column-major, as the product wants it
        self._scales_1O = found.scales_T1.t().contiguous()
        self._bias = None if bias is None else bias.to(device, torch.bfloat16)

    def __call__(self, x: Codes) -> Tensor:
        """[T, O] bfloat16, the only type of a product with a scale a row."""
        return torch._scaled_mm(
            x.values_TH, self._weight_IO, x.scales_T1, self._scales_1O, bias=self._bias, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip

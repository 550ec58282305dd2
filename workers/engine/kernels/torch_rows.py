"""The functions of triton_rows.py in plain torch: for devices without Triton, and what its kernels are compared with.

Shapes: as there.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from workers.engine.kernels.float8 import Codes, encode

why_absent: str | None = None


class Norm(Protocol):
    """The weights of a LayerNorm."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor: ...
    @property
    def eps(self) -> float: ...


def embed_norm(ids_T: Tensor, places_T: Tensor, words_VH: Tensor, positions_PH: Tensor, norm: Norm) -> Tensor:
    """LayerNorm(words[id] + positions[place]), [T, H]."""
    return _normed(words_VH.index_select(0, ids_T) + positions_PH.index_select(0, places_T), norm)


def add_norm(x_TH: Tensor, bias_H: Tensor, residual_TH: Tensor, norm: Norm) -> Tensor:
    """LayerNorm(x + bias + residual), [T, H]."""
    return _normed(x_TH + bias_H + residual_TH, norm)


def add_norm_codes(x_TH: Tensor, bias_H: Tensor, residual_TH: Tensor, norm: Norm) -> tuple[Tensor, Codes]:
    """As `add_norm`, and the 8-bit codes of the result before it is rounded."""
    weight, bias, width = norm.weight.float(), norm.bias.float(), x_TH.shape[1]
    exact = functional.layer_norm(x_TH.float() + bias_H.float() + residual_TH.float(), (width,), weight, bias, norm.eps)
    return exact.to(residual_TH.dtype), encode(exact)


def codes(x_TH: Tensor, activation: str = "none") -> Codes:
    """8-bit codes of activation(x), one scale a row."""
    x_TH = x_TH.float()
    if activation == "relu":
        x_TH = x_TH.relu()
    elif activation != "none":
        x_TH = functional.gelu(x_TH, approximate="tanh" if activation == "gelu_tanh" else "none")
    return encode(x_TH)


def segment_mean(states_TH: Tensor, starts_B: Tensor, ends_B: Tensor) -> Tensor:
    """[B, H] float32: the mean of rows start to end (exclusive) of each segment; zeros for one without rows."""
    means = [states_TH[a:b].float().sum(0) / max(b - a, 1) for a, b in zip(starts_B.tolist(), ends_B.tolist(), strict=True)]
    return torch.stack(means)


def _normed(x_TH: Tensor, norm: Norm) -> Tensor:
    return functional.layer_norm(x_TH, x_TH.shape[-1:], norm.weight, norm.bias, norm.eps)

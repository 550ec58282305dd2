"""A bias of attention scores by the distance of a key from its query, one for each head: relative positions, as in MPNet.

Shapes: H heads, L tokens of a sequence, R = 2 reach + 1 distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLE = 16  # of a stored square's side: its rows then begin where CUDA kernels want them


class RelativeBias:
    """softmax(Q K' scale + bias): the bias of every distance."""

    def __init__(self, table_HR: Tensor) -> None:
        """`table_HR`: of keys at distance -reach, ..., reach behind their query; the farthest stand for all beyond."""
        self.table_HR = table_HR.detach().float().contiguous()
        self.reach = table_HR.shape[1] // 2
        self.exponents_HR = self.table_HR / math.log(2)  # for scores that are exponents of 2
        self._squares: dict[tuple[torch.device, torch.dtype, float], Tensor] = {}

    def square(self, length: int, like: Tensor, unit: float = 1.0) -> Tensor:
        """[H, L, L], query by key, in `unit`s, with device and type of `like`: a view of the largest that was asked for."""
        kind = (like.device, like.dtype, unit)
        known = self._squares.get(kind)
        if known is None or known.shape[1] < length:
            places = torch.arange(-(-length // _MULTIPLE) * _MULTIPLE)
            distances = (places - places[:, None]).clamp(-self.reach, self.reach) + self.reach
            self._squares[kind] = known = (self.table_HR / unit)[:, distances].to(like.device, like.dtype)
        return known[:, :length, :length]

"""A bias of attention scores by the distance of a key from its query, one for each head: relative positions, or a window.

Shapes: H heads, L tokens of a sequence, R = 2 reach + 1 distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLE = 16  # of a stored square's side: its rows then begin where CUDA kernels want them


class RelativeBias:
    """softmax(Q K' scale + bias): the bias of every distance."""

    def __init__(self, table_HR: Tensor, window: int | None = None) -> None:
        """`table_HR`: of keys at distance -reach, ..., reach behind their query; the farthest stand for all beyond.

        `window`: the bias is nothing but this window (see `of_window`).
        """
        self.window = window
        self.table_HR = table_HR.detach().float().contiguous()
        self.reach = table_HR.shape[1] // 2
        self.exponents_HR = self.table_HR / math.log(2)  # for scores that are exponents of 2
        self._squares: dict[tuple[torch.device, torch.dtype, float], Tensor] = {}

    @classmethod
    def of_window(cls, heads: int, window: int) -> RelativeBias:
        """Keys less than `window` positions away count as they are, others not at all."""
        table = torch.zeros(heads, 2 * window + 1)
        table[:, [0, -1]] = -torch.inf
        return cls(table, window)

    def square(self, length: int, like: Tensor, unit: float = 1.0) -> Tensor:
        """[H, L, L], query by key, in `unit`s, with device and type of `like`: a view of the largest that was asked for.

        [1, L, L] of a window.
        """
        kind = (like.device, like.dtype, unit)
        known = self._squares.get(kind)
        if known is None or known.shape[1] < length:
            places = torch.arange(-(-length // _MULTIPLE) * _MULTIPLE)
            table = self.table_HR if self.window is None else self.table_HR[:1]
            distances = (places - places[:, None]).clamp(-self.reach, self.reach) + self.reach
            self._squares[kind] = known = (table / unit)[:, distances].to(like.device, like.dtype)
        return known[:, :length, :length]

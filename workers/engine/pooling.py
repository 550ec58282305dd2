"""Hidden states of a packed batch -> one float32 vector a sequence. Pure functions, one a mode, and their table.

Shapes: B sequences, T tokens of the batch end to end, H hidden size. There is no padding, so none can count; tokens of an
excluded prompt lie in segments of their own, which are left out. Half-precision states must come as float32: pooled
in half precision 100 times more is lost. Knows nothing of models or devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.config import Pooling
from workers.records.tokens import TokenizedTexts


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What a forward pass left, in float32. `layers` and `pooler` only where a mode asks for them (see needs_*)."""

    last_TH: Tensor
    starts_B: Tensor  # int64, first token of each sequence that counts (behind an excluded prompt); at most its end
    ends_B: Tensor  # int64, one past its last token
    skip: int = 0  # leading tokens of every sequence that do not count
    layers: tuple[Tensor, ...] = ()  # the last four [T, H], deepest last
    pooler_BH: Tensor | None = None

    @property
    def counts_B1(self) -> Tensor:
        """[B, 1] tokens that count, at least 1: what a mean divides by."""
        return (self.ends_B - self.starts_B).clamp(min=1).unsqueeze(-1).to(torch.float32)


def pool(hidden: HiddenStates, modes: tuple[Pooling, ...]) -> Tensor:
    """[B, sum of the modes' sizes], the modes concatenated in their order.

    A sequence of which no token counts gives zeros (means) or a non-finite vector (max), which the writer quarantines.
    """
    pooled = [_POOLINGS[mode](hidden) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def needs_layers(modes: tuple[Pooling, ...]) -> bool:
    return Pooling.LAST4_MEAN in modes or Pooling.LAST4_CONCAT in modes


def needs_pooler(modes: tuple[Pooling, ...]) -> bool:
    return Pooling.POOLER in modes


def _reduce(states_TH: Tensor, hidden: HiddenStates, how: str) -> Tensor:
    """[B, H]: each sequence's tokens reduced one after the other, so the same bits every time, on CUDA too."""
    borders = torch.cat([hidden.starts_B.new_zeros(1), hidden.ends_B])
    if not hidden.skip:
        return torch.segment_reduce(states_TH, how, offsets=borders, axis=0)
    skipped = torch.stack([borders[:-1], hidden.starts_B], dim=1).flatten()  # prompt, text, prompt, text, …
    return torch.segment_reduce(states_TH, how, offsets=torch.cat([skipped, borders[-1:]]), axis=0)[1::2]


def _mean_of(states_TH: Tensor, hidden: HiddenStates) -> Tensor:
    return _reduce(states_TH, hidden, "sum") / hidden.counts_B1


def _cls(hidden: HiddenStates) -> Tensor:
    """The first token that counts: [CLS], or what follows an excluded prompt."""
    return hidden.last_TH[torch.minimum(hidden.starts_B, hidden.ends_B - 1)]


def _mean(hidden: HiddenStates) -> Tensor:
    return _mean_of(hidden.last_TH, hidden)


def _max(hidden: HiddenStates) -> Tensor:
    return _reduce(hidden.last_TH, hidden, "max")


def _mean_sqrt_len(hidden: HiddenStates) -> Tensor:
    return _reduce(hidden.last_TH, hidden, "sum") / hidden.counts_B1.sqrt()


def _weighted_mean(hidden: HiddenStates) -> Tensor:
    """Weights are positions 1, 2, ... of the sequence; excluding a prompt leaves the others' positions as they are."""
    first_B = torch.cat([hidden.ends_B.new_zeros(1), hidden.ends_B[:-1]])
    lengths_B = hidden.ends_B - first_B
    position_T = torch.arange(1, len(hidden.last_TH) + 1, device=first_B.device) - torch.repeat_interleave(
        first_B, lengths_B
    )
    weights_T1 = position_T.to(torch.float32).unsqueeze(-1)
    return _reduce(hidden.last_TH * weights_T1, hidden, "sum") / _reduce(weights_T1, hidden, "sum").clamp(min=1)


def _last_token(hidden: HiddenStates) -> Tensor:
    return hidden.last_TH[hidden.ends_B - 1]


def _pooler(hidden: HiddenStates) -> Tensor:
    """The model's own trained head on its first token."""
    if hidden.pooler_BH is None:
        raise ValueError("the model gave no pooler output")
    return hidden.pooler_BH


def _last4_mean(hidden: HiddenStates) -> Tensor:
    """Mean over tokens of the average of the last four layers."""
    return _mean_of(torch.stack(hidden.layers).mean(dim=0), hidden)


def _last4_concat(hidden: HiddenStates) -> Tensor:
    """Mean-pooled last four layers side by side, the last layer first."""
    return torch.cat([_mean_of(layer_TH, hidden) for layer_TH in reversed(hidden.layers)], dim=-1)


_POOLINGS: dict[Pooling, Callable[[HiddenStates], Tensor]] = {
    Pooling.CLS: _cls,
    Pooling.MEAN: _mean,
    Pooling.MEAN_LSTM: _mean,  # the LSTM has rewritten last_TH by then
    Pooling.MAX: _max,
    Pooling.MEAN_SQRT_LEN: _mean_sqrt_len,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.LAST_TOKEN: _last_token,
    Pooling.POOLER: _pooler,
    Pooling.LAST4_MEAN: _last4_mean,
    Pooling.LAST4_CONCAT: _last4_concat,
}


def mean_of_chunks(vectors_ND: Tensor, tokens: TokenizedTexts) -> Tensor:
    """One vector a document: the mean of its chunks' vectors weighted by their tokens, summed in float64."""
    if not len(tokens.document):
        return vectors_ND
    weights_N1 = tokens.lengths.astype(np.float64)[:, None]
    starts = np.flatnonzero(np.diff(tokens.document, prepend=-1))  # every document has at least one sequence
    sums = np.add.reduceat(vectors_ND.numpy() * weights_N1, starts, axis=0)
    totals = np.add.reduceat(weights_N1, starts, axis=0)
    with np.errstate(invalid="ignore"):  # a document of empty sequences: 0 / 0, NaN, quarantined
        return torch.from_numpy((sums / totals).astype(np.float32))

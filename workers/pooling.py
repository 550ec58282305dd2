"""Hidden states of a padded batch -> one float32 vector a sequence. Pure functions, one a mode, and their table.

Shapes: B sequences, T positions (padded), H hidden size. Means divide by real tokens; padding never counts. Knows
nothing of models or devices; half-precision hidden states must come as float32, or 100 times more is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.config import Pooling


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What a forward pass left, in float32. `layers` and `pooler` only where a mode asks for them (see needs_*)."""

    last_BTH: Tensor
    mask_BT: Tensor  # bool: the tokens that count (no padding, and no prompt where the model excludes it)
    layers: tuple[Tensor, ...] = ()  # the last four [B, T, H], deepest last
    pooler_BH: Tensor | None = None


def pool(hidden: HiddenStates, modes: tuple[Pooling, ...]) -> Tensor:
    """[B, sum of the modes' sizes], the modes concatenated in their order.

    A sequence of which no token counts gives zeros (means) or a non-finite vector (max), which the writer quarantines.
    """
    return torch.cat([_POOLINGS[mode](hidden) for mode in modes], dim=-1)


def needs_layers(modes: tuple[Pooling, ...]) -> bool:
    return Pooling.LAST4_MEAN in modes or Pooling.LAST4_CONCAT in modes


def needs_pooler(modes: tuple[Pooling, ...]) -> bool:
    return Pooling.POOLER in modes


def _weights(mask_BT: Tensor) -> Tensor:
    return mask_BT.to(torch.float32).unsqueeze(-1)


def _mean_of(states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    weights_BT1 = _weights(mask_BT)
    return (states_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1)


def _cls(hidden: HiddenStates) -> Tensor:
    """The first token that counts: [CLS], or what follows an excluded prompt."""
    first_B = hidden.mask_BT.to(torch.int32).argmax(dim=1)
    return hidden.last_BTH[torch.arange(len(first_B), device=first_B.device), first_B]


def _mean(hidden: HiddenStates) -> Tensor:
    return _mean_of(hidden.last_BTH, hidden.mask_BT)


def _max(hidden: HiddenStates) -> Tensor:
    return hidden.last_BTH.masked_fill(~hidden.mask_BT.unsqueeze(-1), float("-inf")).amax(dim=1)


def _mean_sqrt_len(hidden: HiddenStates) -> Tensor:
    weights_BT1 = _weights(hidden.mask_BT)
    return (hidden.last_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1).sqrt()


def _weighted_mean(hidden: HiddenStates) -> Tensor:
    """Weights are positions 1, 2, ... of the sequence; excluding a prompt leaves the others' positions as they are."""
    position_T1 = torch.arange(
        1, hidden.last_BTH.shape[1] + 1, device=hidden.last_BTH.device, dtype=torch.float32
    ).unsqueeze(-1)
    weights_BT1 = _weights(hidden.mask_BT) * position_T1
    return (hidden.last_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1)


def _last_token(hidden: HiddenStates) -> Tensor:
    positions_T = torch.arange(hidden.mask_BT.shape[1], device=hidden.mask_BT.device)
    last_B = (hidden.mask_BT * positions_T).amax(dim=1)
    return hidden.last_BTH[torch.arange(len(last_B), device=last_B.device), last_B]


def _pooler(hidden: HiddenStates) -> Tensor:
    """The model's own trained head on its first token."""
    if hidden.pooler_BH is None:
        raise ValueError("the model gave no pooler output")
    return hidden.pooler_BH


def _last4_mean(hidden: HiddenStates) -> Tensor:
    """Mean over tokens of the average of the last four layers."""
    return _mean_of(torch.stack(hidden.layers).mean(dim=0), hidden.mask_BT)


def _last4_concat(hidden: HiddenStates) -> Tensor:
    """Mean-pooled last four layers side by side, the last layer first."""
    return torch.cat([_mean_of(layer_BTH, hidden.mask_BT) for layer_BTH in reversed(hidden.layers)], dim=-1)


_POOLINGS: dict[Pooling, Callable[[HiddenStates], Tensor]] = {
    Pooling.CLS: _cls,
    Pooling.MEAN: _mean,
    Pooling.MEAN_LSTM: _mean,  # the LSTM has rewritten last_BTH by then
    Pooling.MAX: _max,
    Pooling.MEAN_SQRT_LEN: _mean_sqrt_len,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.LAST_TOKEN: _last_token,
    Pooling.POOLER: _pooler,
    Pooling.LAST4_MEAN: _last4_mean,
    Pooling.LAST4_CONCAT: _last4_concat,
}

"""Pooling against a naive loop in float64; padding and excluded tokens must never count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workers.config import Pooling
from workers.engine.pooling import HiddenStates, pool

LENGTHS = (1, 4, 7)


def hidden(garbage: float) -> HiddenStates:
    """Three sequences padded to 7, `garbage` where there is padding."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    layers = [torch.randn(3, 7, 5, generator=generator).masked_fill(~mask.unsqueeze(-1), garbage) for _ in range(4)]
    return HiddenStates(layers[-1], mask, tuple(layers), torch.randn(3, 5, generator=generator))


def naive(state: HiddenStates, mode: Pooling, row: int) -> np.ndarray:
    layers = [layer[row, : LENGTHS[row]].double().numpy() for layer in state.layers]
    last, count = layers[-1], LENGTHS[row]
    weights = np.arange(1, count + 1)[:, None]
    assert state.pooler_BH is not None
    return {
        Pooling.CLS: last[0],
        Pooling.MEAN: last.mean(axis=0),
        Pooling.MEAN_LSTM: last.mean(axis=0),
        Pooling.MAX: last.max(axis=0),
        Pooling.MEAN_SQRT_LEN: last.sum(axis=0) / count**0.5,
        Pooling.WEIGHTED_MEAN: (last * weights).sum(axis=0) / weights.sum(),
        Pooling.LAST_TOKEN: last[-1],
        Pooling.POOLER: state.pooler_BH[row].double().numpy(),
        Pooling.LAST4_MEAN: np.mean(layers, axis=0).mean(axis=0),
        Pooling.LAST4_CONCAT: np.concatenate([layer.mean(axis=0) for layer in layers[::-1]]),
    }[mode]


MODES = [mode for mode in Pooling if mode not in (Pooling.AUTO, Pooling.TOKENS)]


@pytest.mark.parametrize("garbage", [0.0, 1e4])
@pytest.mark.parametrize("mode", MODES)
def test_against_a_loop(mode: Pooling, garbage: float) -> None:
    state = hidden(garbage)
    pooled = pool(state, (mode,))
    expected = np.stack([naive(state, mode, row) for row in range(3)])
    assert pooled.dtype == torch.float32
    assert np.abs(pooled.numpy() - expected).max() < 1e-5


def test_several_modes_are_concatenated_in_order() -> None:
    state = hidden(9.0)
    pooled = pool(state, (Pooling.MAX, Pooling.CLS))
    assert torch.equal(pooled, torch.cat([pool(state, (Pooling.MAX,)), pool(state, (Pooling.CLS,))], dim=1))


def test_an_excluded_prompt() -> None:
    """The first two tokens do not count: cls is the third, weights keep their positions."""
    state = hidden(0.0)
    mask = state.mask_BT.clone()
    mask[:, :2] = False
    state = HiddenStates(state.last_BTH, mask)
    last = state.last_BTH[2].double()
    assert torch.equal(pool(state, (Pooling.CLS,))[2], state.last_BTH[2, 2])
    weights = torch.arange(3.0, 8.0).double()[:, None]
    assert torch.allclose(
        pool(state, (Pooling.WEIGHTED_MEAN,))[2].double(), (last[2:] * weights).sum(0) / weights.sum(), atol=1e-6
    )
    assert torch.allclose(pool(state, (Pooling.MEAN,))[2].double(), last[2:].mean(0), atol=1e-6)

"""Pooling against a naive loop in float64; padding and excluded tokens must never count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workers.config import BY_TOKEN, Pooling
from workers.engine.kernels import torch_rows, triton_rows
from workers.engine.pooling import HiddenStates, pool, pools_half

LENGTHS = (1, 4, 7)
ENDS = torch.tensor(LENGTHS).cumsum(0)


def hidden() -> HiddenStates:
    """Three sequences end to end."""
    generator = torch.Generator().manual_seed(5)
    layers = [torch.randn(sum(LENGTHS), 5, generator=generator) for _ in range(4)]
    starts = ENDS - torch.tensor(LENGTHS)
    return HiddenStates(layers[-1], starts, ENDS, 0, tuple(layers), torch.randn(3, 5, generator=generator))


def naive(state: HiddenStates, mode: Pooling, row: int) -> np.ndarray:
    layers = [layer[ENDS[row] - LENGTHS[row] : ENDS[row]].double().numpy() for layer in state.layers]
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


MODES = [mode for mode in Pooling if mode not in {Pooling.AUTO, Pooling.SPARSE} | BY_TOKEN]


@pytest.mark.parametrize("mode", MODES)
def test_against_a_loop(mode: Pooling) -> None:
    state = hidden()
    pooled = pool(state, (mode,))
    expected = np.stack([naive(state, mode, row) for row in range(3)])
    assert pooled.dtype == torch.float32
    assert np.abs(pooled.numpy() - expected).max() < 1e-5


def test_the_mean_of_half_precision_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one kernel on CUDA, here by its counterpart; with an excluded prompt, and a sequence that has nothing else."""
    cuda, usable = torch.device("cuda"), iter([None, "no C compiler"])
    monkeypatch.setattr(triton_rows, "why_unusable", lambda _: next(usable))
    assert pools_half((Pooling.MEAN,), cuda)
    assert not pools_half((Pooling.MEAN,), cuda)
    assert not pools_half((Pooling.MEAN,), torch.device("cpu"))
    assert not pools_half((Pooling.MEAN, Pooling.MAX), cuda)
    monkeypatch.setattr(triton_rows, "segment_mean", torch_rows.segment_mean)
    states = torch.randn(9, 16, generator=torch.Generator().manual_seed(1)).half()
    hidden = HiddenStates(states, torch.tensor([2, 4, 6]), torch.tensor([4, 4, 9]), skip=2)
    found = pool(hidden, (Pooling.MEAN,))
    exact = torch.stack([states[2:4].double().mean(0), torch.zeros(16).double(), states[6:9].double().mean(0)])
    assert found.dtype is torch.float32
    assert torch.allclose(found.double(), exact, rtol=1e-6, atol=1e-7)


def test_several_modes_are_concatenated_in_order() -> None:
    state = hidden()
    pooled = pool(state, (Pooling.MAX, Pooling.CLS))
    assert torch.equal(pooled, torch.cat([pool(state, (Pooling.MAX,)), pool(state, (Pooling.CLS,))], dim=1))


LATE_ROWS = [(0, 3), (3, 5), (7, 8), (9, 12)]  # of inputs of 5 and 7 tokens; none of the tokens 5, 6 and 8
OF_ONE_TOKEN = (Pooling.CLS, Pooling.LAST_TOKEN, Pooling.POOLER)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in OF_ONE_TOKEN])
@pytest.mark.parametrize("rows", [LATE_ROWS, LATE_ROWS[:3]])
def test_late_chunks(mode: Pooling, rows: list[tuple[int, int]]) -> None:
    """Several rows of an input, tokens between and behind them that belong to none; weights are positions in the input."""
    layers = [torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    starts, ends = (torch.tensor(places) for places in zip(*rows, strict=True))
    found = pool(HiddenStates(layers[-1], starts, ends, 0, tuple(layers), None, torch.tensor([0, 5, 12])), (mode,))
    for vector, (start, end) in zip(found, rows, strict=True):
        parts = [layer[start:end].double().numpy() for layer in layers]
        last, first = parts[-1], 0 if start < 5 else 5
        weights = np.arange(start - first + 1, end - first + 1)[:, None]
        expected = {
            Pooling.MEAN: last.mean(axis=0),
            Pooling.MEAN_LSTM: last.mean(axis=0),
            Pooling.MAX: last.max(axis=0),
            Pooling.MEAN_SQRT_LEN: last.sum(axis=0) / len(last) ** 0.5,
            Pooling.WEIGHTED_MEAN: (last * weights).sum(axis=0) / weights.sum(),
            Pooling.LAST4_MEAN: np.mean(parts, axis=0).mean(axis=0),
            Pooling.LAST4_CONCAT: np.concatenate([part.mean(axis=0) for part in parts[::-1]]),
        }[mode]
        assert np.abs(vector.numpy() - expected).max() < 1e-5


def test_an_excluded_prompt() -> None:
    """The first two tokens do not count: cls is the third, weights keep their positions; the prompt alone gives zeros."""
    whole = hidden()
    starts = torch.minimum(whole.starts_B + 2, whole.ends_B)
    state = HiddenStates(whole.last_TH, starts, whole.ends_B, 2)
    last = whole.last_TH[-7:].double()
    assert torch.equal(pool(state, (Pooling.CLS,))[2], whole.last_TH[-5])
    weights = torch.arange(3.0, 8.0).double()[:, None]
    expected = (last[2:] * weights).sum(0) / weights.sum()
    assert torch.allclose(pool(state, (Pooling.WEIGHTED_MEAN,))[2].double(), expected, atol=1e-6)
    assert torch.allclose(pool(state, (Pooling.MEAN,))[2].double(), last[2:].mean(0), atol=1e-6)
    assert torch.equal(pool(state, (Pooling.MEAN,))[0], torch.zeros(5))
    assert not torch.isfinite(pool(state, (Pooling.MAX,))[0]).any()

"""The choice of batch_tokens: a fixed number on a CPU, timed on CUDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.workers.families import of_lengths
from workers.engine.batches import budget
from workers.engine.batches.budget import CPU_TOKENS, choose_batch_tokens, sweep
from workers.engine.batches.plan import Layout
from workers.engine.kernels.packing import PackedBatch
from workers.engine.ways.interface import States

CPU = torch.device("cpu")
GOLDEN = of_lengths(np.array([3, 60, 0, 25, 12]))


class Clock:
    """A device whose speed is given: tokens/s for batches of up to so many tokens; memory for `fits` tokens."""

    name, layout = "clock", Layout.PACKED

    def __init__(self, rates: dict[int, float], fits: int = 1 << 30, cold_seconds: float = 0.0) -> None:
        self.rates, self.fits, self.cold_seconds = rates, fits, cold_seconds
        self.now = 0.0
        self.seen: list[int] = []

    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        assert not layers
        if batch.tokens > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if batch.tokens not in self.seen:
            self.now += self.cold_seconds
        self.seen.append(batch.tokens)
        assert (np.diff(batch.lengths_B) <= 0).all()
        assert batch.lengths_B.min() > 0
        limit = min(limit for limit in self.rates if batch.tokens <= limit)
        self.now += batch.tokens / self.rates[limit]
        return States(torch.empty(0))


def swept(monkeypatch: pytest.MonkeyPatch, clock: Clock, budgets: tuple[int, ...] = (1000, 2000, 4000, 8000)) -> int:
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock.now)
    return sweep(clock, GOLDEN, CPU, budgets)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1000: 50.0, 2000: 80.0, 4000: 100.0, 8000: 99.5}, 8000),  # nearly as fast is good enough
        ({1000: 50.0, 2000: 80.0, 4000: 100.0, 8000: 98.0}, 4000),
        ({1000: 100.0, 2000: 100.0, 4000: 100.0, 8000: 100.0}, 8000),
        ({1000: 50.0, 2000: 100.0, 4000: 60.0, 8000: 40.0}, 2000),
    ],
)
def test_the_largest_that_is_nearly_the_fastest(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], expected: int
) -> None:
    clock = Clock(rates)
    assert swept(monkeypatch, clock) == expected
    filled = sorted(set(clock.seen))
    assert len(filled) == 4
    assert all(limit * 0.9 <= tokens <= limit for tokens, limit in zip(filled, rates, strict=True))


def test_the_first_pass_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1000: 50.0, 2000: 80.0, 4000: 100.0, 8000: 99.5}
    assert swept(monkeypatch, Clock(rates, cold_seconds=1e5)) == 8000


@pytest.mark.parametrize(("fits", "expected"), [(5000, 4000), (1500, 1000), (10, 500)])
def test_no_further_than_memory_goes(monkeypatch: pytest.MonkeyPatch, fits: int, expected: int) -> None:
    clock = Clock({1000: 10.0, 2000: 20.0, 4000: 40.0, 8000: 80.0}, fits)
    assert swept(monkeypatch, clock) == expected


@pytest.mark.parametrize(("fits", "expected", "tried"), [(1 << 30, 4000, 2), (3000, 2000, 2), (1500, 1000, 1)])
def test_those_below_enough_only_where_no_other_fits(
    monkeypatch: pytest.MonkeyPatch, fits: int, expected: int, tried: int
) -> None:
    """Launched from a busy process, a small batch is slower than the sweep sees."""
    clock = Clock({1000: 100.0, 2000: 100.0, 4000: 60.0, 8000: 40.0}, fits)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock.now)
    assert sweep(clock, GOLDEN, CPU, (1000, 2000, 4000, 8000), 3500) == expected
    assert len(set(clock.seen)) == tried


class Broken(Clock):
    def __call__(self, batch: PackedBatch, *, layers: int) -> States:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_other_errors_are_not_taken_for_a_full_device() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        sweep(Broken({}), GOLDEN, CPU, (1000,))


def test_a_budget_below_the_longest_golden_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands alone, as in a batch of the plan."""
    clock = Clock({60: 10.0})
    assert swept(monkeypatch, clock, (40,)) == 40
    assert set(clock.seen) == {60}


def test_a_cpu_needs_no_sweep() -> None:
    clock = Clock({})
    assert choose_batch_tokens(clock, GOLDEN, CPU) == CPU_TOKENS == 2048
    assert clock.seen == []

"""How often the driver asks Ray: bounded for a thousand replicas, at once for a few. The rest is tested on a real Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jobs.pool import actor_pool
from jobs.pool.actor_pool import GATHER_SECONDS, STATS_A_SECOND, STATS_SECONDS, stats_seconds
from jobs.pool.replica_pool import ReplicaPool
from jobs.scheduling.messages import Stats
from workers.records.shard import ReplicaStats


class _Clock:
    """In place of `time`: sleeping takes no time here, and counts."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


class _Ray:
    """Every call has ended when somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def wait(self, refs: Sequence[Any], *, num_returns: int, **_: Any) -> tuple[list[Any], list[Any]]:
        self.looks += 1
        return list(refs[:num_returns]), []

    def get(self, ref: Any) -> Any:
        return ref.answer


class _Call:
    def __init__(self, answer: Any) -> None:
        self.answer = answer


class _Actor:
    """Answers calls of `stats`."""

    def __init__(self) -> None:
        self.asked = 0
        self.stats = self

    def remote(self) -> _Call:
        self.asked += 1
        return _Call(ReplicaStats(tokens=self.asked))


def pool_of(replicas: int, monkeypatch: pytest.MonkeyPatch) -> tuple[ReplicaPool, _Clock]:
    clock = _Clock()
    monkeypatch.setattr(actor_pool, "time", clock)
    monkeypatch.setattr(actor_pool, "ray", _Ray())
    pool = ReplicaPool.__new__(ReplicaPool)
    pool._actors = {number: _Actor() for number in range(replicas)}
    pool._ready = set(pool._actors)
    pool._calls, pool._stats_at = {}, dict.fromkeys(pool._actors, clock.now)
    return pool, clock


def test_each_of_a_few_replicas_is_asked_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, clock = pool_of(3, monkeypatch)
    heard = []
    while clock.now < 1000 + 10 * STATS_SECONDS + 1:
        heard += pool.wait(0.25)
    assert [event.replica for event in heard if isinstance(event, Stats)] == [0, 1, 2] * 10
    assert [actor.asked for actor in pool._actors.values()] == [10, 10, 10]


def test_a_thousand_replicas_are_asked_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stats_seconds(1000) == 1000 / STATS_A_SECOND
    pool, clock = pool_of(1000, monkeypatch)
    while clock.now < 1000 + 3.5 * stats_seconds(1000):
        pool.wait(0.25)
    assert {actor.asked for actor in pool._actors.values()} == {3}


@pytest.mark.parametrize(("calls", "seconds"), [(6, 0.0006), (3000, GATHER_SECONDS), (100_000, GATHER_SECONDS)])
def test_what_ends_together_is_heard_together(calls: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, clock = pool_of(0, monkeypatch)
    pool._calls = {_Call(ReplicaStats()): ("stats", number) for number in range(calls)}
    assert len(pool.wait(0.25)) == calls
    assert clock.slept == pytest.approx(seconds)
    assert actor_pool.ray.looks == 2

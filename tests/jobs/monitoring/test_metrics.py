"""Metrics without Ray: what each event counts as, slots that are taken over, and tags that stay within their lists."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from jobs.monitoring.metrics import MAX_SLOTS, METRICS, Cause, Kind, Metric, Outcome, RunMetrics, Stage
from jobs.scheduling.messages import Finished, Lost, Ready, Stats
from tests.jobs.hand_driver import make_receipt
from workers.records.shard import Blame, Failure, ReplicaStats

Series = tuple[str, tuple[tuple[str, str], ...]]


class Sink:
    """Keeps what was recorded as an exporter would, and refuses tags that a metric did not declare."""

    def __init__(self) -> None:
        self.values: Counter[Series] = Counter()
        self.metrics = RunMetrics()
        self.metrics.connect(self._open)

    def _open(self, metric: Metric) -> Callable[[float, dict[str, str]], None]:
        def record(value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(metric.tags)
            assert all(value in metric.tags[name] for name, value in tags.items()), tags
            series = (metric.name, tuple(sorted(tags.items())))
            if metric.kind is Kind.COUNTER:
                assert value > 0, "Ray refuses anything else"
                self.values[series] += value  # type: ignore[assignment]
            else:
                self.values[series] = value  # type: ignore[assignment]

        return record

    def __call__(self, name: str, **tags: str) -> float:
        return self.values[name, tuple(sorted(tags.items()))]


@pytest.fixture
def sink() -> Sink:
    return Sink()


class _Standing:
    running, pending = 3, 4
    replicas: Mapping[str, int] = {"wanted": 2, "ready": 1, "starting": 1}

    def snapshot(self, _now: float) -> dict[str, Any]:
        shards = {"planned": 10, "done": 2, "quarantined": 1}
        return {"shards": shards, "documents": 20, "quarantined_rows": 5, "done_share": 0.25, "eta_seconds": None}


def test_receipts(sink: Sink) -> None:
    rows = {"rows": 10, "reused_rows": 3, "repeated_rows": 2, "quarantined_rows": 1}
    receipt = dataclasses.replace(make_receipt(0, 1), **rows, tokens=70, padded_tokens=80, seconds=9.0)
    sink.metrics.on_event(Finished(0, receipt))
    sink.metrics.on_event(Finished(0, make_receipt(1, 1, adopted=True)))
    assert [sink("reembed_rows", outcome=name) for name in ("embedded", "reused", "repeated", "quarantined")] == [6, 3, 2, 1]
    assert [sink("reembed_committed_tokens", kind=kind) for kind in ("real", "padded")] == [79, 89]
    assert [sink("reembed_shards_done", how=how) for how in ("embedded", "adopted")] == [1, 1]
    assert sink("reembed_shard_seconds") == 9, "an adopted shard was not embedded now"


def test_totals_become_increments_also_after_a_replica_was_replaced(sink: Sink) -> None:
    for replica, tokens, busy in ((0, 100, 2.0), (0, 150, 1.9), (0, 150, 2.5), (1, 30, 1.0)):
        stats = ReplicaStats(1, tokens, busy, 5.0, 1 << 30, (), {"read": busy, "wait": 0.0}, tokens // 10, 1)
        sink.metrics.on_event(Stats(replica, stats))
        if replica == 0 and busy == 2.5:
            sink.metrics.on_event(Lost(0, "killed", charged=True, starting=False))
    assert sink("reembed_tokens") == 180
    assert sink("reembed_batches") == 18
    assert sink("reembed_busy_seconds") == pytest.approx(3.5), "a total that fell back a little is not counted twice"
    assert sink("reembed_replica_seconds") == 10
    assert sink("reembed_stage_seconds", stage="read") == pytest.approx(3.5)
    assert sink("reembed_storage_retries", side="replica") == 2
    sink.metrics.update_gauges(1.0, standing := _Standing(), standing, 0)
    assert sink("reembed_replica_peak_memory_bytes") == 1 << 30


def test_a_second_fleet_is_numbered_from_0_again(sink: Sink) -> None:
    """Parts that turn out damaged are embedded once more, by new replicas, before the same driver publishes."""
    for _ in range(2):
        sink.metrics.stage(Stage.STARTING)
        sink.metrics.on_event(Ready(0, {}))
        sink.metrics.on_event(Stats(0, ReplicaStats(1, 100, 1.0, 2.0)))
    assert (sink("reembed_tokens"), sink("reembed_replica_seconds")) == (200, 4)
    assert sink("reembed_replica_busy_share", replica="0") == 0.5


def test_losses_and_failures_by_their_reason(sink: Sink) -> None:
    for charged, starting in ((True, False), (False, False), (True, True), (False, True)):
        sink.metrics.on_event(Lost(0, "why", charged=charged, starting=starting))
    sink.metrics.lost(0, Cause.STOPPED)
    assert [sink("reembed_replicas_lost", cause=cause) for cause in ("died", "away", "start", "stopped")] == [1, 1, 2, 1]
    for blame in Blame:
        sink.metrics.on_event(Finished(0, Failure(0, 1, blame, "why", "s3://bucket/secret-name")))
        assert sink("reembed_shard_failures", blame=blame.value) == 1


def test_slots_are_taken_over_and_end(sink: Sink) -> None:
    busy = ReplicaStats(1, 1, 4.0, 5.0)
    for replica in (7, 8):
        sink.metrics.on_event(Ready(replica, {}))
        sink.metrics.on_event(Stats(replica, busy))
    sink.metrics.on_event(Lost(7, "why", charged=True, starting=False))
    assert [sink("reembed_replica_busy_share", replica=slot) for slot in "01"] == [0.0, 0.8]
    for replica in range(100, 100 + 2 * MAX_SLOTS):
        sink.metrics.on_event(Ready(replica, {}))
        sink.metrics.on_event(Stats(replica, busy))
    shares = [value for (name, _), value in sink.values.items() if name == "reembed_replica_busy_share"]
    assert shares == [0.8] * MAX_SLOTS


def test_gauges_once_a_second(sink: Sink) -> None:
    standing = _Standing()
    sink.metrics.update_gauges(100.0, standing, standing, 3)
    assert {state: sink("reembed_shards", state=state) for state in ("planned", "done", "running", "waiting")} == {
        "planned": 10, "done": 2, "running": 3, "waiting": 4,
    }  # fmt: skip
    assert [sink("reembed_replicas", state=state) for state in ("wanted", "ready", "starting")] == [2, 1, 1]
    assert [sink(f"reembed_{name}") for name in ("documents", "quarantined_rows", "done_share")] == [20, 5, 0.25]
    sink.metrics.update_gauges(100.5, standing, standing, 9)
    assert sink("reembed_storage_retries", side="driver") == 3, "too early to look again"
    sink.metrics.update_gauges(100.6, standing, standing, 9, last=True)
    assert sink("reembed_storage_retries", side="driver") == 9


def test_stages_and_the_end(sink: Sink) -> None:
    for stage in Stage:
        sink.metrics.stage(stage)
        assert {each: sink("reembed_stage", stage=each.value) for each in Stage} == {each: each is stage for each in Stage}
    sink.values.clear()
    sink.metrics.update_gauges(1.0, standing := _Standing(), standing, 0)
    assert sink("reembed_stage", stage="publishing") == 1, "Ray drops a gauge that is not set again"
    sink.metrics.ended(Outcome.REFUSED)
    assert sum(sink("reembed_stage", stage=each.value) for each in Stage) == 0
    assert sink("reembed_drivers_ended", outcome="refused") == 1


def test_names_are_prometheus_and_tags_few() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"reembed_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total"), "Ray appends it"
        series = 1
        for values in metric.tags.values():
            series *= len(values)
        assert series <= MAX_SLOTS
        assert bool(metric.boundaries) == (metric.kind is Kind.HISTOGRAM)


def test_unconnected_it_does_nothing_and_connected_it_costs_nothing(sink: Sink) -> None:
    silent = RunMetrics()
    standing = _Standing()
    silent.on_event(Finished(0, make_receipt(0, 1)))
    silent.update_gauges(1.0, standing, standing, 1, last=True)
    silent.ended(Outcome.STOPPED)
    assert not silent.connected
    receipt = make_receipt(0, 1)
    began = time.process_time()
    for _ in range(1000):
        sink.metrics.on_event(Finished(0, receipt))
    assert (time.process_time() - began) / 1000 < 200e-6, "seconds of the driver a shard; a shard takes minutes"

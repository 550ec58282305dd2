"""Prometheus metrics of a run: METRICS declares them, RunMetrics records them.

    counters    the work of this driver and its replicas since the driver connected to Ray; for rates
    gauges      the present state of the run, work of earlier drivers included

The driver's loop calls RunMetrics; the metrics decide nothing. Tag values come from short fixed lists: no object, shard or
run is a tag. Ray exports each metric as ray_<name> (counters with _total) on the metrics port of the driver's node.
docs/operations.md explains how to read them. Until `connect` is called every call is a no-op; in runs on a Ray of their own
it is never called. Does not know Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from jobs.scheduling.messages import Event, Finished, Lost, Ready, Stats
from workers.records.shard import Blame, Failure, Receipt, ReplicaStats

# How often gauges are set. Ray exports every 10 seconds, and drops a gauge that was not set for 20 seconds.
UPDATE_SECONDS = 1.0
MAX_SLOTS = 64  # replicas with a time series of their own; the slot of a lost replica goes to the next one
_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Stage(StrEnum):
    """What the driver is doing."""

    STARTING = "starting"  # replicas load the model
    EMBEDDING = "embedding"
    JUDGING = "judging"  # rows are accounted for, and the gate checks the snapshot
    PUBLISHING = "publishing"


class Outcome(StrEnum):
    """How a driver ended."""

    PUBLISHED = "published"
    REFUSED = "refused"
    STOPPED = "stopped"
    ABORTED = "aborted"


class Cause(StrEnum):
    """Why a replica was lost."""

    DIED = "died"  # its process ended; the failure is charged to its shard
    AWAY = "away"  # preempted, or its node lost or unreachable; not charged
    START = "start"  # lost before it was ready
    STOPPED = "stopped"  # stopped by the scheduler: a missed deadline, or a failing device


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `tags`: tag name -> all values it can take."""

    name: str
    kind: Kind
    help: str
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boundaries: tuple[float, ...] = ()


Record = Callable[[float, dict[str, str]], None]
_Figure = tuple[str, tuple[tuple[str, str], ...]]  # a counter's name and its tags
_SLOTS = tuple(map(str, range(MAX_SLOTS)))
_C, _G = Kind.COUNTER, Kind.GAUGE

METRICS = (
    Metric("reembed_rows", _C, "Output rows committed, and source rows quarantined, by replicas of this driver",
           {"outcome": ("embedded", "reused", "repeated", "quarantined")}),
    Metric("reembed_tokens", _C, "Tokens that went through the encoders, committed or not"),
    Metric("reembed_committed_tokens", _C, "Tokens in committed shards: real ones, and all positions computed for them",
           {"kind": ("real", "padded")}),
    Metric("reembed_batches", _C, "Batches that went through the encoders"),
    Metric("reembed_shards_done", _C, "Shards committed", {"how": ("embedded", "adopted")}),
    Metric("reembed_shard_failures", _C, "Attempts that ended with an error, by who is to blame",
           {"blame": tuple(blame.value for blame in Blame)}),
    Metric("reembed_replicas_lost", _C, "Replicas that are gone before the run's end",
           {"cause": tuple(cause.value for cause in Cause)}),
    Metric("reembed_busy_seconds", _C, "Seconds in which an encoder computed, over all replicas"),
    Metric("reembed_replica_seconds", _C, "Seconds in which replicas were ready; what is paid for"),
    Metric("reembed_stage_seconds", _C, "Seconds inside each stage, over all replicas; wait: the encoder had nothing to do",
           {"stage": ("read", "tokenize", "encode", "write", "finish", "wait")}),
    Metric("reembed_storage_retries", _C, "Storage calls tried again", {"side": ("driver", "replica")}),
    Metric("reembed_drivers_ended", _C, "How drivers ended", {"outcome": tuple(outcome.value for outcome in Outcome)}),
    Metric("reembed_shard_seconds", Kind.HISTOGRAM, "Seconds from a shard's first read to its commit", boundaries=_SECONDS),
    Metric("reembed_stage", _G, "1 for what the driver is doing", {"stage": tuple(stage.value for stage in Stage)}),
    Metric("reembed_shards", _G, "Shards of the run",
           {"state": ("planned", "done", "running", "waiting", "quarantined")}),
    Metric("reembed_documents", _G, "Source rows of the run that are committed"),
    Metric("reembed_quarantined_rows", _G, "Source rows of the run that are quarantined, in committed shards"),
    Metric("reembed_done_share", _G, "Share of the source's text that is embedded, 0 to 1"),
    Metric("reembed_eta_seconds", _G, "Seconds left, by what this driver has done so far"),
    Metric("reembed_replicas", _G, "Replicas", {"state": ("wanted", "ready", "starting")}),
    Metric("reembed_replica_busy_share", _G, "Share of a replica's time in which its encoder computed; its first 64 slots",
           {"replica": _SLOTS}),
    Metric("reembed_replica_peak_memory_bytes", _G, "Peak resident memory of the largest replica"),
)  # fmt: skip


class Standing(Protocol):
    """The part of the scheduler that the gauges read."""

    @property
    def running(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def replicas(self) -> Mapping[str, int]: ...


class Figures(Protocol):
    """The part of jobs.monitoring.progress.Progress that the gauges read."""

    def snapshot(self, now: float) -> Mapping[str, Any]: ...


class RunMetrics:
    """The metrics of one driver."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._totals: dict[int, dict[_Figure, float]] = {}  # highest totals reported by each live replica
        self._memory: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        self._driver_retries = 0
        self._updated = float("-inf")
        self._stage: Stage | None = None

    @property
    def connected(self) -> bool:
        return bool(self._records)

    def connect(self, recorder: Callable[[Metric], Record]) -> None:
        """Record metrics from now on; `recorder` opens one metric in the exporter."""
        self._records = {metric.name: recorder(metric) for metric in METRICS}

    def stage(self, stage: Stage) -> None:
        """Set the stage of the driver."""
        self._stage = stage
        if stage is Stage.STARTING:  # replicas are numbered from 0 again
            for by_replica in (self._totals, self._memory, self._slots):
                by_replica.clear()
        self._set_stage()

    def ended(self, outcome: Outcome) -> None:
        """Record how the driver ended."""
        self._stage = None
        self._set_stage()
        self._add("reembed_drivers_ended", 1, outcome=outcome.value)

    def on_event(self, event: Event) -> None:
        """Record an event of a replica. Pass only receipts that the scheduler accepted."""
        match event:
            case Ready(replica):
                self._take_slot(replica)
            case Stats(replica, stats):
                self._add_growth(replica, stats)
            case Lost(replica, _, charged, starting):
                self.lost(replica, Cause.START if starting else Cause.DIED if charged else Cause.AWAY)
            case Finished(_, Receipt() as receipt):
                self._add_receipt(receipt)
            case Finished(_, Failure() as failure):
                self._add("reembed_shard_failures", 1, blame=failure.blame.value)

    def lost(self, replica: int, cause: Cause) -> None:
        """Record that a replica was lost or stopped."""
        self._add("reembed_replicas_lost", 1, cause=cause.value)
        self._totals.pop(replica, None)
        self._memory.pop(replica, None)
        slot = self._slots.pop(replica, None)
        if slot is not None:  # zero until another replica takes the slot, or Ray drops the series
            self._set("reembed_replica_busy_share", 0.0, replica=str(slot))

    def update_gauges(self, now: float, standing: Standing, progress: Figures, retries: int, *, last: bool = False) -> None:
        """Set the gauges every UPDATE_SECONDS, and at the `last` call. `retries`: the driver's storage retries so far."""
        if not self.connected or (now - self._updated < UPDATE_SECONDS and not last):
            return
        self._updated = now
        self._set_stage()
        figures = progress.snapshot(now)
        shards = figures["shards"] | {"running": standing.running, "waiting": standing.pending}
        for state, count in shards.items():
            self._set("reembed_shards", count, state=state)
        for state, count in standing.replicas.items():
            self._set("reembed_replicas", count, state=state)
        self._set("reembed_replica_peak_memory_bytes", max(self._memory.values(), default=0))
        self._set("reembed_documents", figures["documents"])
        self._set("reembed_quarantined_rows", figures["quarantined_rows"])
        self._set("reembed_done_share", figures["done_share"])
        if figures["eta_seconds"] is not None:
            self._set("reembed_eta_seconds", figures["eta_seconds"])
        self._add("reembed_storage_retries", retries - self._driver_retries, side="driver")
        self._driver_retries = retries

    def _set_stage(self) -> None:
        for each in Stage:
            self._set("reembed_stage", float(each is self._stage), stage=each.value)

    def _take_slot(self, replica: int) -> None:
        taken = set(self._slots.values())
        slot = next((slot for slot in range(MAX_SLOTS) if slot not in taken), None)
        if slot is not None:
            self._slots[replica] = slot

    def _add_growth(self, replica: int, stats: ReplicaStats) -> None:
        """Add the growth of the replica's totals. A total that falls adds nothing until it exceeds its earlier value."""
        recorded = self._totals.setdefault(replica, {})
        for figure, total in _totals(stats).items():
            more = total - recorded.get(figure, 0.0)
            if more > 0:
                recorded[figure] = total
                name, tags = figure
                self._add(name, more, **dict(tags))
        self._memory[replica] = stats.peak_memory_bytes
        slot = self._slots.get(replica)
        if slot is not None and stats.uptime_seconds:
            self._set("reembed_replica_busy_share", stats.busy_seconds / stats.uptime_seconds, replica=str(slot))

    def _add_receipt(self, receipt: Receipt) -> None:
        embedded = receipt.rows - receipt.reused_rows - receipt.repeated_rows
        rows = {"embedded": embedded, "reused": receipt.reused_rows, "repeated": receipt.repeated_rows}
        for outcome, count in (rows | {"quarantined": receipt.quarantined_rows}).items():
            self._add("reembed_rows", count, outcome=outcome)
        for kind, count in (("real", receipt.tokens), ("padded", receipt.padded_tokens)):
            self._add("reembed_committed_tokens", count, kind=kind)
        self._add("reembed_shards_done", 1, how="adopted" if receipt.adopted else "embedded")
        if not receipt.adopted and "reembed_shard_seconds" in self._records:
            self._records["reembed_shard_seconds"](receipt.seconds, {})

    def _add(self, name: str, amount: float, **tags: str) -> None:
        if amount > 0 and name in self._records:
            self._records[name](amount, tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        if name in self._records:
            self._records[name](value, tags)


def _totals(stats: ReplicaStats) -> dict[_Figure, float]:
    totals: dict[_Figure, float] = {
        ("reembed_tokens", ()): stats.tokens,
        ("reembed_batches", ()): stats.batches,
        ("reembed_busy_seconds", ()): stats.busy_seconds,
        ("reembed_replica_seconds", ()): stats.uptime_seconds,
        ("reembed_storage_retries", (("side", "replica"),)): stats.storage_retries,
    }
    for name, seconds in stats.stage_seconds.items():
        totals["reembed_stage_seconds", (("stage", name),)] = seconds
    return totals

"""Actors: passes by actors on Ray. One pass is one round of the scheduler over all shards; the actors stay for the next.

A shard goes back to the actor that has its vectors in its cache, if that one lives. A lost actor's shards are answered again
by others. Answers are added in order of shards, so those that come early wait; a Partial is small.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from jobs.config import ClusterConfig
from jobs.passes.config import PassSection
from jobs.passes.in_process import failed
from jobs.pool.connection import cluster_resources, connected
from jobs.pool.vector_pool import SLOTS, VectorPool
from jobs.scheduling.loop import drive
from jobs.scheduling.messages import Event, Finished, Lost, Ready, Stats
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from workers.errors import ReplicaRefused, RunAborted
from workers.records.shard import Blame, Failure, Receipt, ReplicaStats, Shard
from workers.vectors.derived import WriteStep
from workers.vectors.step import Combiner, Partial, Step, UnitStep
from workers.vectors.worker import PassResult, WorkerSettings

log = logging.getLogger("reembed")

LOG_SECONDS = 10.0
LAST_STATS_SECONDS = 5.0  # actors must report their final totals within this time
RESIZE_SECONDS = 10.0  # how often the cluster's size is read again, if it decides the number of actors


class Actors:
    """An Executor (passes.py) on Ray, connected while the block lasts. `check` raises if the driver must stop.

    Raises: UsageError: no cluster at the address. RunAborted: a local Ray did not start.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        limits: PassSection,
        settings: WorkerSettings,
        first_epoch: int,
        check: Callable[[], None],
    ) -> None:
        self._cluster, self._check = cluster, check
        self._opened = ExitStack()
        try:
            self._opened.enter_context(connected(cluster, check))
            self._pool = VectorPool(settings)
            self._opened.callback(self._pool.close)
            policy = Policy.of(limits, ready_seconds=cluster.replica_ready_seconds, slots=SLOTS)
            self._scheduler = Scheduler((), policy, replicas=self._wanted(), first_epoch=first_epoch)
        except BaseException:
            self._opened.close()
            raise
        self._resized = self._logged = time.monotonic()
        self._stats: dict[int, ReplicaStats] = {}  # by actor, as last told
        self._bytes_read = 0

    def __enter__(self) -> Actors:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def spent(self) -> tuple[int, int, int]:
        """Assignments, vector bytes read from the store, peak memory of the largest actor in bytes."""
        for event in self._pool.last_stats(LAST_STATS_SECONDS):
            self._stats[event.replica] = event.stats
        peak = max((stats.peak_memory_bytes for stats in self._stats.values()), default=0)
        return self._scheduler.attempts, self._bytes_read, peak

    def run(self, step: Step | UnitStep, shards: Sequence[Shard], combiner: Combiner) -> None:
        """Raises: as Executor.run()."""
        early: dict[int, Partial] = {}
        order = iter([shard.number for shard in shards])
        due = next(order, None)

        def answered(result: PassResult | Receipt) -> None:
            nonlocal due
            if isinstance(result, PassResult):
                early[result.shard] = result.partial
            while due is not None and due in early:
                combiner.add(early.pop(due))
                due = next(order, None)

        self._round(step, shards, answered)

    def write(self, step: WriteStep, shards: Sequence[Shard], record: Callable[[Receipt], Any]) -> None:
        """Every shard is written; `record` is given its receipt. Raises: as Executor.run()."""

        def answered(result: PassResult | Receipt) -> None:
            if isinstance(result, Receipt):
                record(result)

        self._round(step, shards, answered)

    def _round(
        self,
        step: Step | UnitStep | WriteStep,
        shards: Sequence[Shard],
        answered: Callable[[PassResult | Receipt], None],
    ) -> None:
        self._pool.begin(step)
        self._scheduler.next_round(shards, sticky=not isinstance(step, UnitStep))
        name = type(step).__name__

        def handle(event: Event) -> None:
            self._handle(event, answered)

        def tick(now: float) -> None:
            if now - self._logged >= LOG_SECONDS:
                self._logged = now
                ready = self._scheduler.replicas["ready"]
                log.info("pass %s: %d of %d shards, %d actors", name, self._scheduler.done, len(shards), ready)

        drive(self._scheduler, self._pool, handle, self._each_turn, tick)
        self._each_turn()  # the last shard may have failed for good

    def _each_turn(self) -> None:
        self._check()
        if self._scheduler.quarantined:
            number, reason = next(iter(self._scheduler.quarantined.items()))
            raise RunAborted(f"shard {number}: {reason}; what is committed stays, run the same command again to resume")
        now = time.monotonic()
        if self._cluster.replicas == "auto" and now - self._resized > RESIZE_SECONDS:
            self._resized = now
            self._scheduler.resize(self._wanted())

    def _handle(self, event: Event, answered: Callable[[PassResult | Receipt], None]) -> None:
        now, scheduler = time.monotonic(), self._scheduler
        match event:
            case Ready(replica, facts):
                log.info("actor %d ready: %s", replica, ", ".join(f"{key} {value}" for key, value in facts.items()))
                scheduler.on_ready(replica, now)
            case Stats(replica, stats):
                self._stats[replica] = stats
                scheduler.on_progress(replica, stats.tokens, now)
            case Lost(replica, reason, charged, starting, error):
                log.warning("actor %d lost%s: %s", replica, " while starting" if starting else "", reason)
                if error is not None:
                    raise ReplicaRefused(str(error))
                scheduler.on_lost(replica, reason, now, charged=charged, during_start=starting)
            case Finished(replica, Failure() as failure):
                log.warning(
                    "shard %d failed on actor %d (%s): %s", failure.shard, replica, failure.blame.value, failure.reason
                )
                if failure.blame is Blame.REQUEST:
                    raise failed(failure)
                scheduler.on_failure(replica, failure, now)
            case Finished(replica, result):
                if scheduler.on_receipt(replica, result, now):
                    self._bytes_read += getattr(result, "bytes_read", 0)
                    answered(result)

    def _wanted(self) -> int:
        """One actor a core, unless their number is configured."""
        if self._cluster.replicas != "auto":
            return self._cluster.replicas
        return max(1, int(cluster_resources().get("CPU", 1)))

"""The loop of the embedding job (jobs/scheduling/loop.py): what each event means for ledger, progress and metrics.

It ends early by an exception: Stopped (signal) or RunAborted (scheduler, lock, ledger).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from jobs.monitoring.metrics import Cause, RunMetrics
from jobs.monitoring.progress import Progress
from jobs.scheduling.loop import Pool, drive
from jobs.scheduling.messages import Command, Event, Finished, Lost, Ready, Stats, StopReplica
from jobs.scheduling.scheduler import Scheduler
from jobs.state.ledger import Ledger
from workers.errors import ReplicaRefused
from workers.records.shard import Blame, Failure, Receipt
from workers.storage.client import retries

log = logging.getLogger("reembed")


def dispatch(
    scheduler: Scheduler, pool: Pool, ledger: Ledger, progress: Progress, metrics: RunMetrics, check: Callable[[], None]
) -> None:
    """Run the loop until every shard is done or quarantined; `check` raises if the driver must stop.

    Raises:
        RunAborted: the scheduler aborted (its reason says what to check).
        ReplicaRefused: a replica says that the request itself cannot be carried out.
    """

    def handle(event: Event) -> None:
        _handle(event, scheduler, ledger, progress, metrics)

    def tick(now: float) -> None:
        progress.quarantined_shards = len(scheduler.quarantined)
        progress.tick(now)
        metrics.update_gauges(now, scheduler, progress, retries())

    def executed(command: Command) -> None:
        if isinstance(command, StopReplica):
            metrics.lost(command.replica, Cause.STOPPED)

    drive(scheduler, pool, handle, check, tick, executed)


def _handle(event: Event, scheduler: Scheduler, ledger: Ledger, progress: Progress, metrics: RunMetrics) -> None:
    now = time.monotonic()
    if not isinstance(event, Finished):
        metrics.on_event(event)
    match event:
        case Ready(replica, facts):
            log.info("replica %d ready: %s", replica, ", ".join(f"{key} {value}" for key, value in facts.items()))
            progress.replica_ready(replica, facts)
            scheduler.on_ready(replica, now)
        case Stats(replica, stats):
            progress.replica_stats(replica, stats)
            scheduler.on_progress(replica, stats.tokens, now, stats.uptime_seconds)
        case Lost(replica, reason, charged, starting, error):
            log.warning("replica %d lost%s: %s", replica, " while starting" if starting else "", reason)
            progress.replica_lost(replica)
            if error is not None:
                raise ReplicaRefused(str(error))
            scheduler.on_lost(replica, reason, now, charged=charged, during_start=starting)
        case Finished(replica, Receipt() as receipt):
            if scheduler.on_receipt(replica, receipt, now):
                ledger.record_async(receipt)
                progress.receipt(receipt, replica)
                metrics.on_event(event)
        case Finished(replica, Failure() as failure):
            named = f"{failure.object_uri}: {failure.reason}" if failure.object_uri else failure.reason
            log.warning("shard %d failed on replica %d (%s): %s", failure.shard, replica, failure.blame.value, named)
            progress.attempt_failed(replica)
            if failure.blame is Blame.REQUEST:
                raise ReplicaRefused(failure.reason)
            if scheduler.on_failure(replica, failure, now):
                metrics.on_event(event)

"""From pending shards to receipts: connects to Ray, begins a run that is new, keeps replicas at work, stores the state.

    connect -> replicas -> (a new run: settle what only they can tell, begin) -> dispatch loop -> stop replicas

A cluster that was joined is left only when the run has ended, so that its metrics tell how. A Ray of our own ends with the
replicas, and is told nothing: nobody scrapes it.

What a killed driver leaves is whole: receipts and status on storage, replicas that end with their owner.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag, Stopped
from jobs.embed.calibration import settle
from jobs.embed.loop import dispatch
from jobs.gate.figures import Golden, save_golden
from jobs.monitoring.metrics import RunMetrics, Stage
from jobs.monitoring.progress import Progress
from jobs.planning.run import Run
from jobs.pool.connection import cluster_resources, connected, recorder
from jobs.pool.replica_pool import ReplicaPool
from jobs.pool.replica_shape import ReplicaShape, replica_shape
from jobs.report.summary import Work
from jobs.report.write import get_ready
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from jobs.state.ledger import Ledger
from jobs.state.records import RunState
from workers.config import Pooling, Precision
from workers.errors import ReembedError, TransientError
from workers.records.documents import TOKENS_WINDOW_BYTES
from workers.records.shard import Receipt
from workers.replica.golden_reference import ReferenceFile
from workers.replica.settings import ReplicaSettings
from workers.storage.client import retries

log = logging.getLogger("reembed")

RESIZE_SECONDS = 10.0  # how often the cluster's size is looked at again, where it decides the number of replicas
EPOCHS_PER_DRIVER = 1 << 32  # attempts of a later driver always outrank those of an earlier one
LAST_WORDS_SECONDS = 5.0  # replicas have as long to tell what they did in all
GOLDEN_SECONDS = 60.0  # replicas have as long to embed the golden texts once more; the slowest model takes a few
LAST_WORDS_SECONDS_STOPPED = 0.3  # of the three seconds that a stopped job has


def embed_pending(
    run: Run, lock: DriverLock, ledger: Ledger, receipts: Mapping[int, Receipt], work: Work, stop: StopFlag,
    reference: ReferenceFile | None, metrics: RunMetrics, connection: ExitStack,
) -> tuple[Mapping[int, str], Work]:  # fmt: skip
    """Embed every shard without a receipt; returns the shards given up, with reasons, and the work it took.

    `reference`: of the golden texts, for replicas that run on this machine. `connection` holds the one to a
    cluster that was joined.

    Raises:
        UsageError: no cluster there, or it cannot hold a replica. RunAborted: stopped early, resumable.
        ReuseRefused: no replica works in the base's precision, and nothing was embedded yet.
    """
    if not metrics.connected and connection.enter_context(connected(run.config.cluster)):
        metrics.connect(recorder)
    stop.install()
    stop.check()
    metrics.stage(Stage.STARTING)
    shape = replica_shape(run.config.cluster, cluster_resources())
    pool = ReplicaPool(shape, _settings(run, shape, reference))
    try:
        settle(run, pool, shape, stop, untried=run.took_precision and all(map(_carried, receipts.values())))
        session = _Session(run, lock, ledger, receipts, work, shape, pool, stop, metrics)
        session.embed()
    finally:
        pool.close()
        if not metrics.connected:
            connection.close()
    return dict(session.scheduler.quarantined), session.spent()


class _Session:
    """One driver's time with the replicas."""

    def __init__(
        self, run: Run, lock: DriverLock, ledger: Ledger, receipts: Mapping[int, Receipt], work: Work, shape: ReplicaShape,
        pool: ReplicaPool, stop: StopFlag, metrics: RunMetrics,
    ) -> None:  # fmt: skip
        self._run, self._lock, self._ledger, self._work, self._stop = run, lock, ledger, work, stop
        self._metrics = metrics
        self._began = self._resized = time.monotonic()
        config = run.config
        pending = ledger.pending(run.shards, receipts)
        policy = Policy(
            max_attempts=config.run.max_attempts,
            ready_seconds=config.cluster.replica_ready_seconds,
            shard_seconds=config.run.shard_seconds,
            stall_seconds=config.run.stall_seconds,
        )
        first_epoch = lock.generation * EPOCHS_PER_DRIVER
        self.scheduler = Scheduler(pending, policy, replicas=shape.replicas, first_epoch=first_epoch)
        self.progress = Progress(run.shards, receipts, self._store_status, self._began, first_epoch)
        self._pool = pool
        log.info(
            "run %s: %d shards to embed, %d replicas of %g GPU and %d CPU",
            run.run_id,
            len(pending),
            shape.replicas,
            shape.gpus,
            shape.cpus,
        )

    def embed(self) -> None:
        """Raises: RunAborted, and Stopped among it; the state on storage then says so."""
        try:
            self._store_status(self.progress.snapshot(self._began))
            self._metrics.stage(Stage.EMBEDDING)
            dispatch(self.scheduler, self._pool, self._ledger, self.progress, self._metrics, self._check)
            get_ready()
            self._ledger.drain()
            self._hear_last_stats(LAST_WORDS_SECONDS)
            self._keep_golden()
        except ReembedError as error:
            try:
                if isinstance(error, Stopped):  # at once: of its three seconds a busy machine leaves little for what follows
                    self._tell_end(error)
                self._hear_last_stats(LAST_WORDS_SECONDS_STOPPED)
            finally:
                self._pool.close()
            self._tell_end(error)
            raise
        finally:
            self.progress.close()
        self._store_status(self.progress.snapshot(time.monotonic()))

    def _tell_end(self, error: ReembedError) -> None:
        state = RunState.STOPPED if isinstance(error, Stopped) else RunState.ABORTED
        if not self._lock.lost.is_set():
            self._store_status(self.progress.snapshot(time.monotonic()) | {"reason": str(error)}, state)

    def _hear_last_stats(self, timeout: float) -> None:
        """Replicas are asked every few seconds only: without this a short run would seem to have done nothing."""
        for event in self._pool.last_stats(timeout):
            self.progress.replica_stats(event.replica, event.stats)
            self._metrics.hear(event)
        self._metrics.look(time.monotonic(), self.scheduler, self.progress, retries(), last=True)

    def _keep_golden(self) -> None:
        """What replicas make of the golden texts after all their work; the gate compares it with the last snapshot's."""
        told = self._pool.golden(GOLDEN_SECONDS)
        if told:
            save_golden(self._run.store, self._run.run_id, Golden.made_by(self._run.run_id, told))

    def spent(self) -> Work:
        """A killed driver's last seconds are in no status; what it finished it embedded all the same."""
        known = max(self._work.documents_embedded, self.progress.documents_before)
        work = dataclasses.replace(self._work, documents_embedded=known)
        return work.plus(self.scheduler.attempts, time.monotonic() - self._began, self.progress.stats)

    def _store_status(self, snapshot: Mapping[str, Any], state: RunState = RunState.RUNNING) -> None:
        try:
            self._run.write_status({**snapshot, "state": state.value}, self.spent())
        except TransientError as error:  # a status is for watching; what must not be lost is in the receipts
            log.warning("status.json not written: %s", error)

    def _check(self) -> None:
        """Every turn of the loop: a signal, a lost lock, a cluster of another size."""
        self._stop.check()
        self._lock.raise_if_lost()
        if self._run.config.cluster.replicas == "auto" and time.monotonic() - self._resized > RESIZE_SECONDS:
            self._resized = time.monotonic()
            self.scheduler.resize(replica_shape(self._run.config.cluster, cluster_resources()).replicas)


def _carried(receipt: Receipt) -> bool:
    return receipt.carried_from is not None


def _settings(run: Run, shape: ReplicaShape, reference: ReferenceFile | None) -> ReplicaSettings:
    by_token = run.request.recipe.pooling == (Pooling.TOKENS,)
    model = run.request.model
    return ReplicaSettings(
        plan=dataclasses.replace(run.plan, window_bytes=TOKENS_WINDOW_BYTES) if by_token else run.plan,
        model=run.config.model,
        output=run.config.output,
        weights_digest=model.weights_digest,
        tokenizer_digest=model.tokenizer_digest,
        dim=run.stamp.dim,
        precision=Precision(run.record.model["precision"]) if run.record else run.config.model.precision,
        batch_tokens=(run.record.batch_tokens if run.record else None) or run.config.model.batch_tokens,
        threads=shape.cpus,
        atomic_create=run.store.atomic_create,
        reference=reference,
    )

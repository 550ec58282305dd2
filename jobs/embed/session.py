"""From pending shards to receipts: connects to Ray, keeps replicas at work, stores the state.

    Session      connect -> replica pool -> (a planned run: begin it) -> embed -> stop replicas
    _Embedding   the dispatch loop of one session

A local Ray is shut down with the replicas; it exports no metrics. A killed driver leaves nothing half-done: receipts and
status are on storage, and replicas end with their owner.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from jobs.driver.signals import Stopped
from jobs.embed.calibration import calibrate, try_precision
from jobs.embed.context import DriverContext
from jobs.embed.loop import dispatch
from jobs.gate.figures import Golden, save_golden
from jobs.monitoring.metrics import Stage
from jobs.monitoring.progress import Progress
from jobs.planning.planned_run import PlannedRun
from jobs.planning.run import Run
from jobs.pool.connection import cluster_resources, connected, recorder
from jobs.pool.replica_pool import ReplicaPool
from jobs.pool.replica_shape import ReplicaShape, replica_shape
from jobs.report.write import preload_libraries
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from jobs.state.accounting import Work
from jobs.state.records import RunState
from jobs.state.stored_shards import pending
from workers.config import Pooling
from workers.errors import ReembedError, TransientError
from workers.records.documents import TOKENS_WINDOW_BYTES
from workers.records.shard import Receipt
from workers.replica.golden_reference import GoldenReferenceFile
from workers.replica.settings import ReplicaSettings, ResolvedSettings
from workers.storage.client import retries

log = logging.getLogger("reembed")

RESIZE_SECONDS = 10.0  # how often the cluster's size is looked at again, where it decides the number of replicas
EPOCHS_PER_DRIVER = 1 << 32  # attempts of a later driver always outrank those of an earlier one
LAST_WORDS_SECONDS = 5.0  # replicas have as long to tell what they did in all
GOLDEN_SECONDS = 60.0  # replicas have as long to embed the golden texts once more; the slowest model takes a few
LEAST_BATCH_TOKENS = 4096  # token budget of runs begun by a version that stored none
LAST_WORDS_SECONDS_STOPPED = 0.3  # of the three seconds that a stopped job has


class Session:
    """Replicas of one driver, from connecting to Ray until they are stopped. Closed by embed() and close()."""

    def __init__(self, driver: DriverContext, run: Run | PlannedRun, reference: GoldenReferenceFile | None) -> None:
        """`reference`: of the golden texts, for replicas on this machine.

        Raises:
            UsageError: no cluster there, or it cannot hold a replica. Stopped.
        """
        self._driver, self._opened = driver, ExitStack()
        driver.resources.callback(self.close)
        self._connect(run)
        driver.stop.install()
        driver.stop.check()
        driver.metrics.stage(Stage.STARTING)
        self._shape = replica_shape(run.config.cluster, cluster_resources())
        self._pool = ReplicaPool(self._shape, _settings(run, self._shape, reference))
        self._opened.callback(self._pool.close)

    def begin(self, planned: PlannedRun, predicted: Callable[[], Mapping[str, Any]]) -> Run:
        """Begin a run with what its first replica tells. Raises: as calibrate() and PlannedRun.begin()."""
        facts = calibrate(planned, self._pool, self._shape, self._driver.stop)
        return planned.begin(facts.precision, facts.int8_scale, facts.batch_tokens, predicted())

    def embed(self, run: Run, receipts: Mapping[int, Receipt], work: Work) -> tuple[Mapping[int, str], Work]:
        """Embed every shard without a receipt; returns the shards given up, with reasons, and the work spent.

        Raises:
            UsageError: a replica refuses the request. RunAborted: stopped early, resumable.
            ReuseRefused: no replica works in the base's precision, and nothing was embedded yet.
        """
        try:
            if run.took_precision and all(receipt.carried_from is not None for receipt in receipts.values()):
                try_precision(run, self._pool, self._shape, self._driver.stop)
            self._pool.configure(ResolvedSettings(run.stamp, run.record.batch_tokens or LEAST_BATCH_TOKENS))
            embedding = _Embedding(self._driver, run, receipts, work, self._shape, self._pool)
            embedding.run()
        finally:
            self.close()
        return dict(embedding.scheduler.quarantined), embedding.spent()

    def close(self) -> None:
        """Stop the replicas, and a Ray of our own. Idempotent."""
        self._opened.close()

    def _connect(self, run: Run | PlannedRun) -> None:
        """A cluster that was joined is left when the driver ends, so that its metrics tell how; it may be joined already."""
        driver = self._driver
        if driver.metrics.connected:
            return
        with ExitStack() as connection:
            joined = connection.enter_context(connected(run.config.cluster))
            (driver.resources if joined else self._opened).push(connection.pop_all())
        if joined:
            driver.metrics.connect(recorder)


class _Embedding:
    """The dispatch loop of one session, and what is stored of it."""

    def __init__(
        self,
        driver: DriverContext,
        run: Run,
        receipts: Mapping[int, Receipt],
        work: Work,
        shape: ReplicaShape,
        pool: ReplicaPool,
    ) -> None:
        self._driver, self._run, self._work, self._pool = driver, run, work, pool
        self._began = self._resized = time.monotonic()
        config = run.config
        todo = pending(run.shards, receipts)
        policy = Policy(
            max_attempts=config.run.max_attempts,
            ready_seconds=config.cluster.replica_ready_seconds,
            shard_seconds=config.run.shard_seconds,
            stall_seconds=config.run.stall_seconds,
        )
        first_epoch = driver.lock.generation * EPOCHS_PER_DRIVER
        self.scheduler = Scheduler(todo, policy, replicas=shape.replicas, first_epoch=first_epoch)
        self.progress = Progress(run.shards, receipts, self._store_status, self._began, first_epoch)
        log.info(
            "run %s: %d shards to embed, %d replicas of %g GPU and %d CPU",
            run.run_id,
            len(todo),
            shape.replicas,
            shape.gpus,
            shape.cpus,
        )

    def run(self) -> None:
        """Raises: RunAborted, and Stopped among it; the state on storage then says so."""
        driver = self._driver
        try:
            self._store_status(self.progress.snapshot(self._began))
            driver.metrics.stage(Stage.EMBEDDING)
            dispatch(self.scheduler, self._pool, driver.ledger, self.progress, driver.metrics, self._check)
            preload_libraries()
            driver.ledger.drain()
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
        if not self._driver.lock.lost.is_set():
            self._store_status(self.progress.snapshot(time.monotonic()) | {"reason": str(error)}, state)

    def _hear_last_stats(self, timeout: float) -> None:
        """Replicas are asked every few seconds only: without this a short run would seem to have done nothing."""
        for event in self._pool.last_stats(timeout):
            self.progress.replica_stats(event.replica, event.stats)
            self._driver.metrics.on_event(event)
        self._driver.metrics.update_gauges(time.monotonic(), self.scheduler, self.progress, retries(), last=True)

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
        self._driver.stop.check()
        self._driver.lock.raise_if_lost()
        if self._run.config.cluster.replicas == "auto" and time.monotonic() - self._resized > RESIZE_SECONDS:
            self._resized = time.monotonic()
            self.scheduler.resize(replica_shape(self._run.config.cluster, cluster_resources()).replicas)


def _settings(run: Run | PlannedRun, shape: ReplicaShape, reference: GoldenReferenceFile | None) -> ReplicaSettings:
    by_token = run.request.recipe.pooling == (Pooling.TOKENS,)
    model = run.request.model
    return ReplicaSettings(
        plan=dataclasses.replace(run.plan, window_bytes=TOKENS_WINDOW_BYTES) if by_token else run.plan,
        model=run.config.model,
        output=run.config.output,
        weights_digest=model.weights_digest,
        tokenizer_digest=model.tokenizer_digest,
        dim=run.stamp.dim,
        precision=run.precision,
        batch_tokens=run.batch_tokens,
        threads=shape.cpus,
        atomic_create=run.store.atomic_create,
        reference=reference,
    )

"""Session: embeds the pending shards of a run on Ray, and stores its status.

    Session      connect -> replica pool -> (a planned run: begin it) -> embed -> stop replicas
    _Embedding   the dispatch loop of one session

A local Ray is shut down with the replicas; it exports no metrics. After a killed driver, receipts and status are on storage,
and the replicas end with it.
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
from jobs.monitoring.metrics import Stage
from jobs.monitoring.progress import Progress
from jobs.planning.parallelism import WORTH_CUTTING, idle_replicas
from jobs.planning.planned_run import PlannedRun
from jobs.planning.run import Run
from jobs.planning.spending import budget_of, expected_excess
from jobs.pool.connection import cluster_resources, connected, recorder
from jobs.pool.replica_pool import ReplicaPool
from jobs.pool.replica_shape import ReplicaShape, replica_shape
from jobs.publish.gate.figures import Golden, save_golden
from jobs.report.write import preload_libraries
from jobs.scheduling.policy import GPU_SLOTS, Policy
from jobs.scheduling.scheduler import Scheduler
from jobs.state.accounting import Work
from jobs.state.records import RunState
from jobs.state.stored_shards import pending
from workers.config import BY_TOKEN, Pooling
from workers.errors import ReembedError, TransientError
from workers.records.documents import TOKENS_WINDOW_BYTES
from workers.records.shard import Receipt
from workers.replica.golden_reference import GoldenReferenceFile
from workers.replica.settings import ReplicaSettings, ResolvedSettings
from workers.storage.client import retries

log = logging.getLogger("reembed")

RESIZE_SECONDS = 10.0  # how often the cluster's size is read again, if it decides the number of replicas
LAST_STATS_SECONDS = 5.0  # replicas must report their final totals within this time
GOLDEN_SECONDS = 60.0  # replicas must embed the golden texts within this time; the slowest model takes a few seconds
LEAST_BATCH_TOKENS = 4096  # token budget of runs begun by a version that stored none
LAST_STATS_SECONDS_STOPPED = 0.3  # a stopped job has three seconds in all


class Session:
    """The replicas of one driver, from connecting to Ray until they are stopped. embed() and close() close it."""

    def __init__(self, driver: DriverContext, run: Run | PlannedRun, reference: GoldenReferenceFile | None) -> None:
        """`reference`: of the golden texts, for replicas on this machine.

        Raises:
            UsageError: no cluster at the address, or it cannot hold a replica. Stopped.
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
        """Calibrate and begin a run. Raises: as calibrate() and PlannedRun.begin()."""
        facts = calibrate(planned, self._pool, self._shape, self._driver.stop)
        return planned.begin(*facts, predicted=predicted())

    def embed(self, run: Run, receipts: Mapping[int, Receipt], work: Work) -> tuple[Mapping[int, str], Work]:
        """Embed every shard without a receipt. Returns the quarantined shards with reasons, and the work spent.

        Raises:
            UsageError: a replica refuses the request. RunAborted: stopped early, resumable.
            ReuseRefused: no replica works in the base's precision, and nothing was embedded yet.
        """
        try:
            if run.took_precision and all(receipt.carried_from is not None for receipt in receipts.values()):
                try_precision(run, self._pool, self._shape, self._driver.stop)
            batch_tokens = run.record.batch_tokens or LEAST_BATCH_TOKENS
            self._pool.configure(ResolvedSettings(run.stamp, batch_tokens, run.record.nullable_elements, run.way))
            embedding = _Embedding(self._driver, run, receipts, work, self._shape, self._pool)
            embedding.run()
        finally:
            self.close()
        return dict(embedding.scheduler.quarantined), embedding.spent()

    def close(self) -> None:
        """Stop the replicas, and a local Ray. Idempotent."""
        self._opened.close()

    def _connect(self, run: Run | PlannedRun) -> None:
        """Connect, unless connected. A joined cluster is left when the driver ends, so that its metrics are exported."""
        driver = self._driver
        if driver.metrics.connected:
            return
        with ExitStack() as connection:
            joined = connection.enter_context(connected(run.config.cluster, driver.stop.check))
            (driver.resources if joined else self._opened).push(connection.pop_all())
        if joined:
            driver.metrics.connect(recorder)


class _Embedding:
    """The dispatch loop of one session, and the status it stores."""

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
        slots = GPU_SLOTS if shape.gpus else Policy().slots
        policy = Policy.of(config.run, ready_seconds=config.cluster.replica_ready_seconds, slots=slots)
        first_epoch = driver.lock.first_epoch
        budget = budget_of(run, receipts, work)
        if excess := expected_excess(run):
            log.warning("the run is expected to need more than its budget, and to end before it is done: %s", excess)
        self.scheduler = Scheduler(todo, policy, replicas=shape.replicas, first_epoch=first_epoch, budget=budget)
        predicted = run.record.extra.get("predicted", {}).get("tokens")
        self.progress = Progress(run.shards, receipts, self._store_status, self._began, first_epoch, predicted)
        log.info(
            "run %s: %d shards to embed, %d replicas of %g GPU and %d CPU",
            run.run_id,
            len(todo),
            shape.replicas,
            shape.gpus,
            shape.cpus,
        )
        if len(todo) < shape.replicas:  # else no pass over a million shards: `plan` has told
            idle = idle_replicas(todo, shape.replicas, config.corpus, least_bytes=WORTH_CUTTING)
            if idle is not None:
                shown = shape.replicas - idle.busy, shape.replicas, idle.cause, idle.mend
                log.warning("%d of %d replicas will be idle: %s; %s", *shown)

    def run(self) -> None:
        """Raises: RunAborted (also Stopped); the status on storage then holds the state and the reason."""
        driver = self._driver
        try:
            self._store_status(self.progress.snapshot(self._began))
            driver.metrics.stage(Stage.EMBEDDING)
            dispatch(self.scheduler, self._pool, driver.ledger, self.progress, driver.metrics, self._check)
            preload_libraries()
            driver.ledger.drain()
            self._record_last_stats(LAST_STATS_SECONDS)
            self._keep_golden()
        except ReembedError as error:
            try:
                if isinstance(error, Stopped):  # at once: on a busy machine the three seconds may end before the next step
                    self._store_end(error)
                self._record_last_stats(LAST_STATS_SECONDS_STOPPED)
            finally:
                self._pool.close()
            self._store_end(error)
            raise
        finally:
            self.progress.close()
        self._store_status(self.progress.snapshot(time.monotonic()))

    def _store_end(self, error: ReembedError) -> None:
        state = RunState.STOPPED if isinstance(error, Stopped) else RunState.ABORTED
        if not self._driver.lock.lost.is_set():
            self._store_status(self.progress.snapshot(time.monotonic()) | {"reason": str(error)}, state)

    def _record_last_stats(self, timeout: float) -> None:
        """Poll the replicas once more. They are polled every few seconds, so a short run would otherwise report no work."""
        for event in self._pool.last_stats(timeout):
            self.progress.replica_stats(event.replica, event.stats)
            self._driver.metrics.on_event(event)
        self._driver.metrics.update_gauges(time.monotonic(), self.scheduler, self.progress, retries(), last=True)

    def _keep_golden(self) -> None:
        """Store the replicas' vectors of the golden texts after their work, for the gate to compare."""
        vectors = self._pool.golden(GOLDEN_SECONDS)
        if vectors:
            save_golden(self._run.store, self._run.run_id, Golden.made_by(self._run.run_id, vectors))

    def spent(self) -> Work:
        """The run's work so far. A killed driver's last status is late, so its work is also counted by receipts."""
        documents = max(self._work.documents_embedded, self.progress.documents_before)
        tokens = max(self._work.tokens, self.progress.tokens_before)
        work = dataclasses.replace(self._work, documents_embedded=documents, tokens=tokens)
        return work.plus(self.scheduler.attempts, time.monotonic() - self._began, self.progress.stats)

    def _store_status(self, snapshot: Mapping[str, Any], state: RunState = RunState.RUNNING) -> None:
        try:
            self._run.write_status({**snapshot, "state": state.value}, self.spent())
        except TransientError as error:  # the status is informative only; the receipts hold the state
            log.warning("status.json not written: %s", error)

    def _check(self) -> None:
        """Check for a signal, a lost lock and a resized cluster; called in every turn of the loop."""
        self._driver.stop.check()
        self._driver.lock.raise_if_lost()
        if self._run.config.cluster.replicas == "auto" and time.monotonic() - self._resized > RESIZE_SECONDS:
            self._resized = time.monotonic()
            self.scheduler.resize(replica_shape(self._run.config.cluster, cluster_resources()).replicas)


def _settings(run: Run | PlannedRun, shape: ReplicaShape, reference: GoldenReferenceFile | None) -> ReplicaSettings:
    by_token = run.request.recipe.pooling[0] in BY_TOKEN | {Pooling.SPARSE}
    model = run.request.model
    return ReplicaSettings(
        plan=dataclasses.replace(run.plan, window_bytes=TOKENS_WINDOW_BYTES) if by_token else run.plan,
        model=run.config.model,
        output=run.config.output,
        weights_digest=model.weights_digest,
        tokenizer_digest=model.tokenizer_digest,
        dim=run.request.recipe.dim or 0,
        precision=run.precision,
        batch_tokens=run.batch_tokens,
        way=run.way,
        threads=shape.cpus,
        atomic_create=run.store.atomic_create,
        reference=reference,
    )

"""Calibration: precision, way, token budget and int8 scale, which only a replica can determine, before a run begins.

    calibrate        for a planned run: the first ready replica's precision, way and budget, and the scale of int8 vectors
    try_precision    for a run begun on a base: checks that a replica can work in the base's precision

All replicas are started at once, so that none waits for the first; the pool keeps them. Every replica, and every later
driver, then uses the same values.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from jobs.driver.signals import StopFlag
from jobs.planning.planned_run import PlannedRun
from jobs.planning.run import ReuseRefused, Run, RunOutline
from jobs.pool.replica_pool import ReplicaPool
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Lost, Ready, StartReplica
from workers.config import VectorType
from workers.errors import PrecisionRefused, RunAborted, UsageError
from workers.table.schema import EMBEDDING

log = logging.getLogger("reembed")

CALIBRATION_SHARDS = 8  # spread over the corpus
MOST_LOST = 3  # replicas that may die while they load before the run is aborted
_WAIT_SECONDS = 0.25
_TELL_SECONDS = 30.0  # how often the log says that nothing is ready yet


class Calibration(NamedTuple):
    """The calibrated values of a new run."""

    precision: str
    int8_scale: float | None  # None if vectors are not stored as int8
    batch_tokens: int
    way: str | None  # how the model is run (workers/engine/trial.py)
    int8_scales: Mapping[str, float]  # of the int8 columns beside the main one


def calibrate(run: PlannedRun, pool: ReplicaPool, shape: ReplicaShape, stop: StopFlag) -> Calibration:
    """Start all replicas and ask the first one that is ready.

    Raises:
        UsageError: a replica says that the request cannot be carried out; nothing was written.
        RunAborted: no replica became ready.
    """
    replica, facts = _first_ready(run, pool, shape, stop)
    int8 = any(form.vector is VectorType.INT8 for form in run.request.formats)
    scales = _int8_scales(run, pool, replica) if int8 else {}
    own = scales.pop(EMBEDDING, None)
    return Calibration(facts["precision"], own, facts["batch_tokens"], facts.get("way"), scales)


def try_precision(run: Run, pool: ReplicaPool, shape: ReplicaShape, stop: StopFlag) -> None:
    """Start all replicas; the first one that is ready must work in the run's precision.

    Raises:
        ReuseRefused: it does not. RunAborted: no replica became ready.
    """
    wanted = run.stamp.precision
    try:
        _, facts = _first_ready(run, pool, shape, stop)
    except UsageError as error:
        raise ReuseRefused(f"not in the published snapshot's precision {wanted}: {error}") from None
    except RunAborted as error:
        if PrecisionRefused.__name__ not in str(error):
            raise
        raise ReuseRefused(f"not in the published snapshot's precision {wanted}: {error}") from None
    if facts["precision"] != wanted:
        raise ReuseRefused(f"a replica works in {facts['precision']}, the published snapshot is in {wanted}")


def _first_ready(run: RunOutline, pool: ReplicaPool, shape: ReplicaShape, stop: StopFlag) -> tuple[int, Mapping[str, Any]]:
    began = told = time.monotonic()
    deadline = began + run.config.cluster.replica_ready_seconds
    log.info("starting %d replicas, which load the model; the first one that is ready begins the run", shape.replicas)
    for replica in range(shape.replicas):
        pool.execute(StartReplica(replica))
    reasons: list[str] = []
    while time.monotonic() < deadline:
        stop.check()
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            log.info("0 of %d replicas are ready after %.0f s", shape.replicas, told - began)
        for event in pool.wait(_WAIT_SECONDS):
            match event:
                case Ready(replica, facts):
                    return replica, facts
                case Lost(error=error) if error is not None:
                    raise error
                case Lost(replica, reason):
                    reasons.append(reason)
                    if len(reasons) >= MOST_LOST:
                        raise RunAborted(f"{len(reasons)} replicas died while they loaded the model: {reasons[-1]}")
                    log.warning("replica %d lost while it loaded the model: %s", replica, reason)
                    pool.execute(StartReplica(replica))
                case _:
                    pass  # totals of an idle replica
    raise RunAborted(
        f"no replica was ready within cluster.replica_ready_seconds={run.config.cluster.replica_ready_seconds:g} "
        f"({shape.replicas} of {shape.gpus:g} GPU and {shape.cpus} CPU wanted); look at `ray status` and the nodes' logs"
    )


def _int8_scales(run: PlannedRun, pool: ReplicaPool, replica: int) -> dict[str, float]:
    """The step of each int8 column for the whole snapshot, from a sample that one replica embeds before the first shard."""
    step = max(1, len(run.shards) // CALIBRATION_SHARDS)
    sample = run.shards[::step][:CALIBRATION_SHARDS]
    scales = dict(pool.calibrate(replica, sample, run.config.run.shard_seconds))
    for column, scale in scales.items():
        log.info("int8 scale %.6g of %s, calibrated on %d shards", scale, column, len(sample))
    return scales

"""Actors that pass over vectors: the class that Ray starts on a node, and the pool of them.

    VectorActor   a VectorWorker (workers/vectors/worker.py) with methods for the driver to call
    VectorPool    begin(step) before the assignments of a pass; then as any pool of actors

An actor takes one core, and every shard one thread of it: more actors, not more threads, use more cores.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import ray

from jobs.pool.actor_pool import NODE_ID, ActorPool
from workers.host.without_pandas import without_pandas
from workers.records.shard import Assignment, Failure, Receipt, ReplicaStats

if TYPE_CHECKING:
    from workers.vectors.derived import WriteStep
    from workers.vectors.step import Step, UnitStep
    from workers.vectors.worker import PassResult, VectorWorker, WorkerSettings

SLOTS = 2  # shards in flight on an actor: one is computed while the next is read
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read once, by the libraries' import


class VectorActor:
    def __init__(self) -> None:
        for name in THREAD_SETTINGS:
            os.environ[name] = "1"
        without_pandas()
        self._worker: VectorWorker | None = None

    def ready(self, settings: WorkerSettings, name: str) -> dict[str, Any]:
        """Settings come by this call, not by the constructor, whose arguments Ray keeps: they hold credentials."""
        from workers.vectors.worker import VectorWorker

        self._worker = self._worker or VectorWorker(settings, name)
        facts = {"node": socket.gethostname(), "pid": os.getpid()}
        return facts | {NODE_ID: ray.get_runtime_context().get_node_id()}

    def work(self, step: Step | UnitStep | WriteStep, assignment: Assignment) -> PassResult | Receipt | Failure:
        return self._loaded.work(step, assignment)

    def stats(self) -> ReplicaStats:
        return self._loaded.stats()

    @property
    def _loaded(self) -> VectorWorker:
        if self._worker is None:
            raise RuntimeError("called before `ready`")
        return self._worker


class VectorPool(ActorPool):
    """Vector actors by number."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._step: Any = None  # Ray's reference to the step of the present pass
        # threads for the shards in flight, for `stats` meanwhile, and one to spare
        options = {"num_cpus": 1, "max_concurrency": SLOTS + 2}
        super().__init__(ray.remote(VectorActor).options(max_restarts=0, max_task_retries=0, **options))

    def begin(self, step: Step | UnitStep | WriteStep) -> None:
        """All assignments from now on are of this pass."""
        self._step = ray.put(step)

    def _start(self, actor: Any, number: int) -> Any:
        return actor.ready.remote(self._settings, f"actor-{number}")

    def _dispatch(self, actor: Any, assignment: Assignment) -> Any:
        return actor.work.remote(self._step, assignment)

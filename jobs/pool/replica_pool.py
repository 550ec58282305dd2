"""Replicas on Ray: the settings they start with, and what is asked of them beside shards.

Text, tokens and vectors never cross the network here, except the vectors of the golden texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from jobs.pool.actor_pool import ActorPool
from jobs.pool.error_text import first_line, plain, refusal
from jobs.pool.replica_actor import ReplicaActor
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.policy import GPU_SLOTS
from workers.errors import RunAborted
from workers.records.shard import Assignment, Shard
from workers.replica.settings import ReplicaSettings, ResolvedSettings


class ReplicaPool(ActorPool):
    """Replicas by number."""

    def __init__(self, shape: ReplicaShape, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._resolved: ResolvedSettings | None = None  # None: replicas load and report their facts, but get no shard
        # threads for the shards in flight (GPU_SLOTS at most), for `stats` meanwhile, and one to spare
        options = {"num_cpus": shape.cpus, "num_gpus": shape.gpus, "max_concurrency": GPU_SLOTS + 2}
        super().__init__(ray.remote(ReplicaActor).options(max_restarts=0, max_task_retries=0, **options))

    def _start(self, actor: Any, number: int) -> Any:
        return actor.ready.remote(self._settings, f"replica-{number}", self._resolved)

    def _dispatch(self, actor: Any, assignment: Assignment) -> Any:
        return actor.embed_shard.remote(assignment)

    def configure(self, resolved: ResolvedSettings) -> None:
        """Give every replica from now on the run's resolved settings.

        A replica that was started before is not ready any more: a second StartReplica tells it the settings. One that is
        started later loads the model in the settled precision and measures no token budget.
        """
        self._resolved, self._settings = resolved, self._settings.settled(resolved)
        self._calls.clear()
        self._ready.clear()
        self._stats_at.clear()

    def calibrate(self, replica: int, shards: Sequence[Shard], timeout: float) -> dict[str, float]:
        """The scale of each int8 column, by its name, measured by a ready replica on a sample of these shards.

        Raises:
            UsageError: it says that the request cannot be carried out.
            RunAborted: it failed or did not answer within `timeout` seconds.
        """
        try:
            return dict(ray.get(self._actors[replica].calibrate.remote(list(shards)), timeout=timeout))
        except RayError as error:
            raise refusal(plain(error)) or RunAborted(
                f"calibration of output.vector=int8 failed: {first_line(error)}; run the command again"
            ) from None

    def golden(self, timeout: float) -> list[NDArray[np.float32]]:
        """Vectors [golden texts, dim] of every ready replica that answers within `timeout` seconds.

        Tens of KB each, and the only vectors that cross the network. pooling=tokens has none. To be called when no shard is
        in flight.
        """
        return [answer for _, answer in self._ask_all("golden", timeout) if answer is not None]

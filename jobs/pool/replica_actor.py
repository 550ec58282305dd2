"""The remote edge: what Ray starts on a node. It holds a Replica (workers/replica/replica.py), and only it imports torch.

Settings come by a call: what a constructor is given Ray keeps in its own records, and they hold credentials.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from workers.records.shard import Assignment, Failure, Receipt, ReplicaStats, Shard
from workers.replica.settings import ReplicaSettings, Settled

if TYPE_CHECKING:
    from workers.replica.replica import Replica

NODE_ID = "node_id"  # among the facts of a ready replica: Ray's name of its node


class ReplicaActor:
    def __init__(self) -> None:
        self._loading = threading.Lock()  # calls run in threads: the next one waits for the model
        self._loaded: Replica | None = None

    def ready(self, settings: ReplicaSettings, name: str, settled: Settled | None) -> dict[str, Any]:
        from workers.replica.replica import Replica

        with self._loading:
            self._loaded = self._loaded or Replica(settings, name)
        if settled is not None:
            self._replica.settle(settled)
        return self._replica.facts() | {NODE_ID: ray.get_runtime_context().get_node_id()}

    @property
    def _replica(self) -> Replica:
        if self._loaded is None:
            raise RuntimeError("asked for something before it was told its settings")
        return self._loaded

    def embed_shard(self, assignment: Assignment) -> Receipt | Failure:
        return self._replica.embed_shard(assignment)

    def calibrate(self, shards: Sequence[Shard]) -> float:
        return self._replica.calibrate(shards)

    def golden(self) -> NDArray[np.float32] | None:
        return self._replica.golden()

    def stats(self) -> ReplicaStats:
        return self._replica.stats()

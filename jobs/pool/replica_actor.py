"""The actor class that Ray starts on a node: a Replica (workers/replica/replica.py) with methods for the driver to call.

Settings come by the call of `ready`, not by the constructor: Ray keeps a constructor's arguments in its own records, and
settings hold credentials. The driver imports this module without torch; Replica is imported on the node.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray

from jobs.pool.actor_pool import NODE_ID
from workers.host.without_pandas import without_pandas
from workers.records.shard import Assignment, Failure, Receipt, ReplicaStats, Shard
from workers.replica.settings import ReplicaSettings, ResolvedSettings

if TYPE_CHECKING:
    from workers.replica.replica import Replica

TOKENIZER_THREADS = "RAYON_NUM_THREADS"  # read by the thread pool of the `tokenizers` library, once


class ReplicaActor:
    def __init__(self) -> None:
        without_pandas()
        self._loading = threading.Lock()  # calls run in threads: a second `ready` waits for the model
        self._loaded: Replica | None = None

    def ready(self, settings: ReplicaSettings, name: str, resolved: ResolvedSettings | None) -> dict[str, Any]:
        """Load the model once, configure the replica when the run is resolved; returns the replica's facts."""
        # The tokenizer's threads, before the first of them starts: else every replica takes all cores of its node.
        os.environ.setdefault(TOKENIZER_THREADS, str(settings.threads))
        from workers.replica.replica import Replica

        with self._loading:
            self._loaded = self._loaded or Replica(settings, name)
        if resolved is not None:
            self._replica.configure(resolved)
        return self._replica.facts() | {NODE_ID: ray.get_runtime_context().get_node_id()}

    @property
    def _replica(self) -> Replica:
        if self._loaded is None:
            raise RuntimeError("called before `ready`")
        return self._loaded

    def embed_shard(self, assignment: Assignment) -> Receipt | Failure:
        return self._replica.embed_shard(assignment)

    def calibrate(self, shards: Sequence[Shard]) -> dict[str, float]:
        return self._replica.calibrate(shards)

    def golden(self) -> NDArray[np.float32] | None:
        return self._replica.golden()

    def stats(self) -> ReplicaStats:
        return self._replica.stats()

"""How many replicas of which shape: what `auto` means on the clusters people have."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.config import ClusterConfig
from jobs.pool.replica_shape import ReplicaShape, replica_shape
from workers.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ({}, {"CPU": 2.0}, ReplicaShape(1, 0.0, 2)),  # a laptop: one replica with both cores
        ({"replicas": 2}, {"CPU": 2.0}, ReplicaShape(2, 0.0, 1)),
        ({}, {"CPU": 64.0}, ReplicaShape(16, 0.0, 4)),
        ({}, {"CPU": 32.0, "GPU": 8.0}, ReplicaShape(8, 1.0, 4)),
        ({}, {"CPU": 4.0, "GPU": 8.0}, ReplicaShape(4, 1.0, 1)),  # GPUs beyond the cores stay idle
        ({"gpus_per_replica": 0.5}, {"CPU": 16.0, "GPU": 2.0}, ReplicaShape(4, 0.5, 4)),
        ({"gpus_per_replica": 0}, {"CPU": 8.0, "GPU": 8.0}, ReplicaShape(2, 0.0, 4)),
        ({"cpus_per_replica": 3}, {"CPU": 8.0}, ReplicaShape(2, 0.0, 3)),
        ({"replicas": 4, "gpus_per_replica": 1}, {"CPU": 8.0}, ReplicaShape(4, 1.0, 2)),  # GPUs may still join
        ({"replicas": 9}, {"CPU": 2.0}, ReplicaShape(9, 0.0, 1)),
    ],
)
def test_auto(settings: dict[str, Any], resources: dict[str, float], expected: ReplicaShape) -> None:
    assert replica_shape(ClusterConfig(**settings), resources) == expected


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"cluster\.gpus_per_replica=1.*no GPU.*set it to 0"):
        replica_shape(ClusterConfig(gpus_per_replica=1), {"CPU": 8.0})

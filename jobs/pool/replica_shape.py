"""The number of replicas and the resources of each, from the configuration and the cluster's resources. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.config import ClusterConfig
from workers.errors import UsageError

MAX_AUTO_CPUS = 4  # of one replica for cpus_per_replica=auto


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """The number of replicas, and what each takes of the cluster.

    `cpus` is also the number of threads that torch has on a CPU, and of the tokenizer's.
    """

    replicas: int
    gpus: float
    cpus: int


def replica_shape(config: ClusterConfig, resources: Mapping[str, float]) -> ReplicaShape:
    """Resolve the `auto` settings from a cluster's resources, busy or not.

    Raises:
        UsageError: what is asked for cannot fit on the cluster.
    """
    gpus_there, cpus_there = resources.get("GPU", 0.0), int(resources.get("CPU", 0))
    gpus = (1.0 if gpus_there else 0.0) if config.gpus_per_replica == "auto" else float(config.gpus_per_replica)
    if gpus > 0 and not gpus_there and config.replicas == "auto":
        raise UsageError(
            f"cluster.gpus_per_replica={config.gpus_per_replica}: the cluster has no GPU; set it to 0 to run on CPUs, "
            "or set cluster.replicas to wait for GPUs to join"
        )
    slots_by_gpu = int(gpus_there // gpus) if gpus else None
    if config.cpus_per_replica != "auto":
        cpus = config.cpus_per_replica
    else:
        wanted = config.replicas if config.replicas != "auto" else slots_by_gpu
        cpus = min(MAX_AUTO_CPUS, max(1, cpus_there // wanted if wanted else cpus_there))
    if config.replicas != "auto":
        replicas = config.replicas
    else:
        replicas = max(1, min(slots_by_gpu if slots_by_gpu is not None else 1 << 30, cpus_there // max(cpus, 1)))
    return ReplicaShape(replicas=replicas, gpus=gpus, cpus=cpus)

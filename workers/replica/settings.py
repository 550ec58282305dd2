"""Settings of the replicas: at start, and once `auto` is resolved. The same for all replicas of a run. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workers.config import Auto, ModelConfig, OutputConfig, Precision
from workers.records.documents import ReadPlan
from workers.replica.golden_reference import GoldenReferenceFile
from workers.table.schema import SnapshotStamp


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica is started with. Contains storage_options with credentials, so it is never logged or stored."""

    plan: ReadPlan
    model: ModelConfig
    output: OutputConfig
    weights_digest: str  # of the model the run was planned with
    tokenizer_digest: str
    dim: int
    precision: Precision  # auto: the replica chooses for its device
    batch_tokens: int | Auto
    threads: int  # of torch on CPUs, and of the tokenizer
    atomic_create: bool  # as the driver's probe of the store found
    way: str | None = None  # of the run, once it is settled
    reference: GoldenReferenceFile | None = None  # of the golden texts, if replicas run on the driver's machine

    def settled(self, resolved: ResolvedSettings) -> ReplicaSettings:
        """For a replica that starts when precision, way and token budget are known, and so need not be found out."""
        precision = Precision(resolved.stamp.precision)
        return replace(self, precision=precision, batch_tokens=resolved.batch_tokens, way=resolved.way)


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """What only a replica can resolve. It holds for all replicas, so that every attempt gives the same bits."""

    stamp: SnapshotStamp
    batch_tokens: int
    nullable_elements: bool = False  # of the output's lists; see output_schema
    way: str | None = None  # how the model is run; None: of a run begun by an earlier version

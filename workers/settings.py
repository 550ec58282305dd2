"""What a replica is told at start: the same for all replicas of a run. Importing it costs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from workers.config import ModelConfig, OutputConfig
from workers.documents import ReadPlan
from workers.output_schema import SnapshotStamp


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """`threads` are torch's CPU threads. Holds storage_options, so it is never logged or stored."""

    plan: ReadPlan
    model: ModelConfig
    output: OutputConfig
    stamp: SnapshotStamp
    threads: int
    atomic_create: bool  # as the driver found the store by racing writers

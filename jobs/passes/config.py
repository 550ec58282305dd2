"""The sections that every job over a snapshot has. Each job adds its own, named like the job (jobs/<job>/config.py)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from jobs.config import ClusterConfig
from workers.config import ByteCount, Section, StorageOptions


class SnapshotSection(Section):
    """Base of a job's own section: the snapshot that it works on."""

    snapshot: str = Field(min_length=1)
    """OUTPUT of `reembed embed` (or of `reembed reduce`): its published snapshot is read."""
    column: str | None = None
    """Which vectors of the snapshot: a column of output.vectors. null: `embedding`."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To fsspec, for the snapshot."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`column` only where it is set: runs begun before are known by their settings."""
        written: dict[str, Any] = serialize(self)
        if self.column is None:
            written.pop("column", None)
        return written


class DerivedOutput(Section):
    """Where the job's own output is stored. Never the folder of the snapshot."""

    uri: str = Field(min_length=1)
    """Folder of the job's output; data/, runs/ and CURRENT.json are made under it."""
    keep_snapshots: int = Field(3, ge=1)
    """Published outputs that are kept, including the current one."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """To fsspec, for the output."""


class PassSection(Section):
    """Limits of a job over a snapshot."""

    max_attempts: int = Field(3, ge=1, le=100)
    """Failed attempts at one shard before the job is aborted (exit 4); lost nodes do not count."""
    shard_seconds: float = Field(7200.0, gt=0)
    """Seconds one shard may take in one pass; after them its actor is replaced."""
    stall_seconds: float = Field(1800.0, gt=0)
    """The job is aborted (exit 4) if no actor got through any row for this many seconds."""
    cache_bytes: ByteCount = Field(1 << 30, ge=0)
    """Vectors and columns that each actor keeps in memory between passes; the others are mapped from its local disk."""


class JobConfig(Section):
    """Base of a job's configuration."""

    output: DerivedOutput
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())
    run: PassSection = Field(default_factory=lambda: PassSection())

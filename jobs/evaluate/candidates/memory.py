"""A snapshot that stands in memory alone: vectors of a sample, evaluated by the same steps as a published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.config import VectorType
from workers.records.shard import ObjectSlice, Shard
from workers.table.vectors import Floats
from workers.vectors.shard_rows import PartSpan, ShardRows
from workers.vectors.step import Combiner, Partial, Step, UnitStep

SHARD_ROWS = 16_384


@dataclass(frozen=True)
class MemorySnapshot(SourceSnapshot):
    """What a snapshot of these vectors would be. `like`: a published one with the same kept columns."""

    width: int = 0

    @classmethod
    def of(cls, like: SourceSnapshot, vectors: Floats) -> MemorySnapshot:
        snapshot = cls(like.run, like.storage_options, width=vectors.shape[1])
        stamp = like.schema.stamp.of_one(vectors.shape[1], VectorType.FLOAT32, None)
        firsts = range(0, len(vectors), SHARD_ROWS)
        counts = [min(SHARD_ROWS, len(vectors) - first) for first in firsts]
        shards = tuple(Shard(at, (ObjectSlice("memory", 0, "", 0, 0, rows),), 0) for at, rows in enumerate(counts))
        vars(snapshot).update(  # where cached_property stores them
            schema=replace(like.schema, stamp=stamp), shards=shards, rows=len(vectors), first_rows=tuple(firsts)
        )
        return snapshot

    @property
    def dim(self) -> int:
        return self.width


def passes_in_memory(like: SourceSnapshot, rows: pa.Table, vectors: Floats) -> Passes:
    """Passes over `vectors` [N, D], whose columns are `rows` [N]."""
    snapshot = MemorySnapshot.of(like, vectors)
    shards = {}
    for shard, first in zip(snapshot.shards, snapshot.first_rows, strict=True):
        piece = np.ascontiguousarray(vectors[first : first + SHARD_ROWS], dtype=np.float32)
        span = PartSpan("memory", 0, len(piece), "")
        shards[shard.number] = ShardRows(shard.number, first, [span], [piece], _as_is, rows.slice(first, SHARD_ROWS))
    return Passes(snapshot, _InMemory(shards), _NoJournal())


def _as_is(cells: Floats) -> Floats:
    return cells


class _InMemory:
    """An Executor (jobs/passes/passes.py): one shard after another, one thread, as an actor computes them."""

    def __init__(self, shards: dict[int, ShardRows]) -> None:
        self._shards = shards

    def run(self, step: Step | UnitStep, shards: Sequence[Shard], combiner: Combiner) -> None:
        if isinstance(step, UnitStep):
            raise TypeError(f"{type(step).__name__}: units of work need an output, which a snapshot in memory has not got")
        with threadpool_limits(limits=1):
            for shard in shards:
                combiner.add(step.of_shard(self._shards[shard.number]))


class _NoJournal:
    def read(self, place: int, name: str, digest: str) -> Partial | None:  # noqa: ARG002 - a candidate is kept whole
        return None

    def write(self, place: int, name: str, digest: str, value: Partial) -> None:
        pass

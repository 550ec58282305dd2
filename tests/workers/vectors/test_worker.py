"""VectorWorker: what its totals say while a shard is not finished."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.vector_snapshots import passes_over, publish_vectors
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step
from workers.vectors.worker import VectorWorker


@dataclass(frozen=True)
class _Watched(Step):
    """Notes the worker's totals after each block."""

    worker: VectorWorker
    totals: list[int] = field(default_factory=list)

    def of_shard(self, rows: ShardRows) -> Partial:
        for _ in rows.blocks(unit=False):
            self.totals.append(self.worker.stats().tokens)
        return {"rows": np.array(len(rows))}


def test_totals_grow_within_a_shard(tmp_path: Path) -> None:
    """A job that gets through no row for run.stall_seconds is aborted: one shard of an index takes longer than that."""
    publish_vectors(tmp_path / "out", np.ones((10_000, 4), np.float32), shards=1)
    workers: list[VectorWorker] = []
    with passes_over(tmp_path / "out", made=workers.append) as passes:
        step = _Watched(workers[0])
        assert passes.run(step)["rows"] == 10_000
    assert step.totals == [0, 4096, 8192]

"""IndexConfig: the configuration of `reembed index`."""

from __future__ import annotations

from pydantic import Field

from jobs.passes.config import JobConfig, SnapshotSection
from workers.vectors.index.index_file import IndexPrecision


class IndexSection(SnapshotSection):
    """The index files: graphs of usearch (HNSW), by cosine, each for one shard of the snapshot or for several."""

    rows_per_file: int = Field(1_000_000, ge=100)
    """Vectors of one file at most. A search asks every file, and as many files are built at a time as there are actors."""
    precision: IndexPrecision = "bf16"
    """How a file stores vectors: f32 | f16 | bf16 | i8. Results are scored with the snapshot's own vectors all the same."""
    connectivity: int = Field(16, ge=2, le=256)
    """Neighbours that the graph keeps of each vector; the lowest level keeps twice as many."""
    expansion: int = Field(128, ge=1, le=4096)
    """Candidates looked at while a vector is added: more is slower to build and finds more."""
    min_recall: float = Field(0.95, ge=0, le=1)
    """Least recall@10 of vectors held out; below it the index is not published (exit 3)."""
    aim: float = Field(0.97, ge=0, le=1)
    """Recall@10 that searches aim at: of 32, 64, 128 and 256 candidates they look at the fewest that reach it."""
    held_out: int = Field(1000, ge=1, le=10_000)
    """Vectors that recall is measured with, chosen by the hash of their texts; at most one in twenty."""


class IndexConfig(JobConfig):
    """The whole configuration of `reembed index`."""

    index: IndexSection

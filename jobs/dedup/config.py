"""The configuration of `reembed dedup`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jobs.passes.config import JobConfig, SnapshotSection
from workers.config import Auto


class DedupSection(SnapshotSection):
    """Near-duplicates among the rows of a snapshot."""

    threshold: float = Field(0.95, gt=0, le=1)
    """Two rows are a pair if the cosine of their vectors is at least this, or if their texts are equal."""
    probe: int = Field(2, ge=1, le=32)
    """Nearest cells that each row is compared in. 1 loses pairs at the borders of cells; cost grows with its square."""
    keep: Literal["first", "longest", "central"] = "first"
    """The row of a group that is kept: the first of the snapshot | most tokens | highest mean cosine to the others."""
    clusters: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Cells. auto: the square root of the number of rows, at most 32,768."""
    outliers: float = Field(0.001, ge=0, le=0.5)
    """At most this share of the rows is marked as outliers: those farthest from their nearest row. 0: none."""


class DedupConfig(JobConfig):
    """All of the file."""

    dedup: DedupSection

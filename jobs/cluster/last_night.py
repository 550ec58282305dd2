"""What a run takes over from the last one: its centroids, the clusters of unchanged shards, the points of its map.

Drift is the mean distance of the rows that are new, against the mean of all rows when the centroids were computed. It
counts as exceeded only where chance cannot explain it: two standard errors of the new rows' mean are taken off first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.cluster.config import ClusterSection
from jobs.passes.kind import Kept
from jobs.passes.source import SourceSnapshot
from workers.records.shard import Shard
from workers.table.part_file import path_in_run
from workers.vectors.clustering.centroids import Centroids
from workers.vectors.clustering.description import DescribeCarried, Wanted
from workers.vectors.step import Partial

_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class Drift:
    """`value`: relative; None where no row is new."""

    value: float | None
    exceeded: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LastNight:
    """The last published run of the same settings."""

    kept: Kept
    centroids: Centroids
    fitted_distance: float  # mean distance of all rows when the centroids were computed

    @classmethod
    def of(cls, kept: Kept | None, source: SourceSnapshot, section: ClusterSection) -> LastNight | None:
        """None: nothing that fits this snapshot was kept."""
        if kept is None or "vectors" not in kept.state or kept.state["vectors"].shape[1] != source.dim:
            return None
        centroids = Centroids.from_state(section.metric, kept.state)
        return cls(kept, centroids, float(kept.state["fitted_distance"]))

    def new_shards(self, source: SourceSnapshot) -> list[Shard]:
        return [shard for shard in source.shards if self.kept.is_new(shard)]

    def carried(self, source: SourceSnapshot, wanted: Wanted) -> DescribeCarried:
        """The step over shards that are not new; unit n is the n-th of them."""
        shards = [shard for shard in source.shards if not self.kept.is_new(shard)]
        place_of = np.empty(int(self.centroids.numbers.max()) + 1, np.int32)
        place_of[self.centroids.numbers] = np.arange(len(self.centroids), dtype=np.int32)
        parts = tuple(
            tuple((piece.uri, self._derived(source, shard, piece.uri)) for piece in shard.slices) for shard in shards
        )
        return DescribeCarried(tuple(shard.number for shard in shards), parts, place_of, wanted)

    def drift(self, new: Mapping[str, NDArray[Any]], limit: float) -> Drift:
        """Of the rows that are new, as described by Describe."""
        rows = int(new["rows"].sum()) if new else 0
        if not rows or self.fitted_distance <= 0:
            return Drift(None, exceeded=False)
        mean = float(new["distance"].sum()) / rows
        variance = max(0.0, float(new["distance_squares"]) / rows - mean * mean)
        value = mean / self.fitted_distance - 1
        surely = (mean - _STANDARD_ERRORS * (variance / rows) ** 0.5) / self.fitted_distance - 1
        if surely <= limit:
            return Drift(value, exceeded=False)
        return Drift(
            value,
            exceeded=True,
            reason=(
                f"the mean distance of {rows:,} new rows is {mean:.4f}, {value:.1%} above {self.fitted_distance:.4f} of the "
                f"rows that the centroids were computed from; cluster.max_drift is {limit:.1%}"
            ),
        )

    def _derived(self, source: SourceSnapshot, shard: Shard, path: str) -> str:
        number = self.kept.number_of(shard)
        derived = None if number is None else path_in_run(path, source.run_id, shard.number, self.kept.run_id, number)
        if derived is None:
            raise ValueError(f"{path} is no part of shard {shard.number} of {source.run_id}")
        return derived


def kept_state(centroids: Centroids, fitted_distance: float, picture: Partial) -> Partial:
    """Outcome.state, from which LastNight.of() begins."""
    return {**centroids.to_state(), "fitted_distance": np.array(fitted_distance), **picture}

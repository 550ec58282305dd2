"""The passes of k-means: a sample for the start, exact Lloyd passes, and the assignment that is written.

SampleRows   rows whose key lies below a limit, with their vectors
Lloyd        sums, counts and inertia of every cluster; the farthest rows, for clusters that are empty
Assign       the columns cluster, distance, second of each row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.clustering.centroids import NONE, Centroids, assigned, block_lengths, nearest
from workers.vectors.clustering.row_keys import Keys, below, keys_of
from workers.vectors.derived import AlignedColumns
from workers.vectors.shard_rows import PartSpan, ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step, Sum

FARTHEST = 32  # rows of a pass that empty clusters may be given


@dataclass(frozen=True)
class SampleRows(Step):
    """About `share` of the rows: keys [n] and vectors [n, D]. The same rows whatever their order and their shards."""

    share: float
    unit: bool
    columns: tuple[str, ...] = ()

    def of_shard(self, rows: ShardRows) -> Partial:
        keys = keys_of(rows)
        chosen = np.flatnonzero(keys < below(self.share)) if self.share < 1 else np.arange(len(rows))
        return {"keys": keys[chosen], "vectors": rows.take(chosen, unit=self.unit)}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class Lloyd(Step):
    """One pass of Lloyd's algorithm ("Least squares quantization in PCM", 1982)."""

    centroids: Centroids
    columns: tuple[str, ...] = ()

    def of_shard(self, rows: ShardRows) -> Partial:
        centroids = self.centroids
        sums = np.zeros(centroids.vectors.shape)
        counts = np.zeros(len(centroids), np.int64)
        inertia = 0.0
        distances: list[NDArray[np.float32]] = []
        places: list[NDArray[np.int32]] = []
        for first, block in rows.blocks(unit=False):  # rows of length 1 would be a copy that takes as long as their products
            lengths = block_lengths(centroids, rows, first, block)
            found = nearest(centroids, block, lengths, exact=False)
            weights = None if lengths is None else np.reciprocal(lengths)
            sums += sums_by_cluster(found.place, block, len(centroids), weights)
            counts += np.bincount(found.place, minlength=len(centroids))
            inertia += float(found.squared(centroids.metric).sum())
            distances.append(found.distance)
            places.append(found.place)
        distance = np.concatenate([np.empty(0, np.float32), *distances])
        far = _largest(distance, 2 * FARTHEST)  # some may be copies of each other
        place = np.concatenate([np.empty(0, np.int32), *places])[far]
        return _farthest(
            {
                "far_distance": distance[far],
                "far_key": keys_of(rows)[far],
                "far_cell": centroids.cells[place],
                "far_vectors": rows.take(far, unit=centroids.unit),
            }
        ) | {"sums": sums, "counts": counts, "inertia": np.array(inertia)}

    def combiner(self) -> Combiner:
        return _LloydTotals()


class _LloydTotals(Combiner):
    """Sums, and the farthest rows of all shards."""

    def __init__(self) -> None:
        self._sum, self._far = Sum(), Partial()

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        self._sum.add({name: value for name, value in partial.items() if not name.startswith("far_")})
        far = {name: value for name, value in partial.items() if name.startswith("far_")}
        if self._far:
            far = {name: np.concatenate([self._far[name], value]) for name, value in far.items()}
        self._far = _farthest(far)

    def result(self) -> Partial:
        return self._sum.result() | self._far


def _largest(values: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Rows of the largest values, ascending; of equal values the first rows."""
    if len(values) <= most:
        return np.arange(len(values))
    least = np.partition(values, len(values) - most)[len(values) - most]
    rows = np.flatnonzero(values >= least)
    return np.sort(rows[np.argsort(-values[rows], kind="stable")[:most]])


def _farthest(rows: Partial) -> Partial:
    """At most FARTHEST rows, the farthest first, each vector once, none at distance 0. Equal distances by key."""
    order = np.lexsort((rows["far_key"], -rows["far_distance"]))
    seen: set[bytes] = set()
    chosen = []
    for place in order:
        vector = rows["far_vectors"][place].tobytes()
        if rows["far_distance"][place] > 0 and vector not in seen:
            seen.add(vector)
            chosen.append(place)
        if len(chosen) == FARTHEST:
            break
    return {name: value[np.array(chosen, np.int64)] for name, value in rows.items()}


def sums_by_cluster(
    place: NDArray[np.int32], rows: Floats, clusters: int, weights: Floats | None = None
) -> NDArray[np.float64]:
    """[K, D] sum of the rows of each cluster, within a block in float32: row after row, in their order.

    `weights` [N]: what each row is multiplied by; 1 over its length sums rows of length 1.
    """
    from scipy.sparse import csr_matrix  # a tenth of a second to import

    each = np.ones(len(rows), np.float32) if weights is None else weights
    members = csr_matrix((each, place, np.arange(len(rows) + 1)), shape=(len(rows), clusters)).T.tocsr()
    sums: NDArray[np.float64] = (members @ rows).astype(np.float64)
    return sums


@dataclass(frozen=True)
class Assign(AlignedColumns):
    """cluster, distance and second of every row, numbered as users see them."""

    centroids: Centroids

    def footer(self) -> dict[str, str]:
        return {"centroids_digest": self.centroids.digest}

    def added(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field("cluster", pa.int32(), nullable=False),
                pa.field("distance", pa.float32(), nullable=False),
                pa.field("second", pa.int32()),
            ]
        )

    def values(self, rows: ShardRows, part: PartSpan) -> Sequence[pa.Array]:
        found = assigned(rows, self.centroids)
        here = slice(part.first, part.first + part.rows)
        second = found.second[here]
        numbers = self.centroids.numbers
        return [
            pa.array(numbers[found.place[here]], pa.int32()),
            pa.array(found.distance[here], pa.float32()),
            pa.array(numbers[second], pa.int32(), mask=second == NONE),
        ]


def in_order_of_keys(sample: Partial) -> tuple[Keys, NDArray[np.float32]]:
    """Keys and vectors of a sample, whatever shards they came from."""
    keys, vectors = sample["keys"], sample["vectors"]
    order = np.argsort(keys, kind="stable")
    return keys[order], np.ascontiguousarray(vectors[order], np.float32)

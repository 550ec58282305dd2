"""Centroids of one level, or of two, and the centroid nearest to each row.

Two levels: every cluster belongs to a cell, and a row is compared with the centres of all cells, then with the clusters of
the nearest cell. That costs a row cells + clusters / cells products in place of as many as there are clusters.

Metrics: `cosine` is spherical k-means (Dhillon and Modha, "Concept decompositions", 2001): rows and centroids have length
1, the distance is 1 - cosine. `l2`: the distance is Euclidean. Both minimise the sum of squared Euclidean distances, which
for vectors of length 1 is 2 - 2 cosine.
Axes: K clusters, C cells, D components, N rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.shard_rows import ShardRows

COSINE, L2 = "cosine", "l2"
NONE = -1  # in `second`: the cell has no other cluster
_ROWS_AT_ONCE = 1024  # scores of so many rows and 256 clusters are 1 MB, and stay in the processor's cache


@dataclass(frozen=True)
class Centroids:
    """A cluster's place is its row in `vectors`; `numbers` are what users see.

    Args:
        vectors: [K, D], with two levels in order of cells. numbers: [K].
        coarse: [C, D] centres of the cells; [0, D]: one level.
        borders: [C + 1] where each cell's clusters begin in `vectors`; empty: one level.
    """

    metric: str
    vectors: Floats
    numbers: NDArray[np.int32]
    coarse: Floats
    borders: NDArray[np.int64]

    @classmethod
    def flat(cls, metric: str, vectors: Floats) -> Centroids:
        """Of one level, numbered by place."""
        numbers = np.arange(len(vectors), dtype=np.int32)
        return cls(metric, vectors, numbers, np.empty((0, vectors.shape[1]), np.float32), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def unit(self) -> bool:
        """Whether rows are divided by their length."""
        return self.metric == COSINE

    @property
    def cells(self) -> NDArray[np.int64]:
        """[K] the cell of each cluster; zeros where there is one level."""
        if not len(self.coarse):
            return np.zeros(len(self), np.int64)
        return np.repeat(np.arange(len(self.coarse)), np.diff(self.borders))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what decides a row's place: everything but the numbers."""
        sums = hashlib.sha256(f"{self.metric} {self.vectors.shape} {self.coarse.shape}".encode())
        for array in (self.vectors, self.coarse, self.borders):
            sums.update(np.ascontiguousarray(array).tobytes())
        return sums.hexdigest()

    def to_state(self) -> dict[str, NDArray[Any]]:
        """Named arrays, from which from_state() makes the same again."""
        return {name: getattr(self, name) for name in ("vectors", "numbers", "coarse", "borders")}

    @classmethod
    def from_state(cls, metric: str, state: dict[str, NDArray[Any]]) -> Centroids:
        return cls(metric, state["vectors"], state["numbers"], state["coarse"], state["borders"])


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each row [N]: the place of the nearest cluster, the distance to it, the second place (NONE where not asked for)."""

    place: NDArray[np.int32]
    distance: NDArray[np.float32]
    second: NDArray[np.int32]

    def squared(self, metric: str) -> NDArray[np.float64]:
        return squared(self.distance, metric)


def squared(distance: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Squared Euclidean distances of distances in the metric."""
    wide = distance.astype(np.float64)
    return 2 * wide if metric == COSINE else wide * wide


def nearest(
    centroids: Centroids, rows: Floats, lengths: Floats | None = None, *, second: bool = False, exact: bool = True
) -> Nearest:
    """The nearest cluster of each row [N, D], which may have any length for cosine.

    Args:
        lengths: lengths_of(rows), where they are known; only cosine asks for them.
        exact: distances of l2 are computed from the differences, for those that are stored; else from the products, which
            takes less time and is wrong by some 1e-7 of the rows' squared lengths around the centroids' mean.
    """
    if centroids.unit and lengths is None:
        lengths = lengths_of(rows)
    if not len(centroids.coarse):
        return _among(centroids.vectors, rows, lengths, second, exact)
    found = Nearest(np.empty(len(rows), np.int32), np.empty(len(rows), np.float32), np.full(len(rows), NONE, np.int32))
    for cell, here in by_group(_among(centroids.coarse, rows, lengths, second=False, exact=False).place):
        first, end = int(centroids.borders[cell]), int(centroids.borders[cell + 1])
        those = None if lengths is None else lengths[here]
        inside = _among(centroids.vectors[first:end], rows[here], those, second, exact)
        found.place[here], found.distance[here] = inside.place + first, inside.distance
        found.second[here] = np.where(inside.second == NONE, NONE, inside.second + first)
    return found


def lengths_of(rows: Floats) -> Floats:
    """[N] the rows' lengths, at least the smallest float32: zeros divided by it stay zeros."""
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.maximum(lengths, np.finfo(np.float32).tiny)


def block_lengths(centroids: Centroids, rows: ShardRows, first: int, block: Floats) -> Floats | None:
    """lengths_of() of a block that begins at row `first` of its shard; None for l2, which does not ask for them.

    Kept in the actor: every pass divides by them.
    """
    found: Floats | None = rows.remember(f"lengths {first}", lambda: lengths_of(block)) if centroids.unit else None
    return found


def by_group(groups: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(group, its rows in ascending order) of every group that has rows."""
    if not len(groups):
        return
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    for here in np.split(order, borders):
        yield int(groups[here[0]]), here


def assigned(rows: ShardRows, centroids: Centroids) -> Nearest:
    """The nearest clusters of all rows of a shard, with the second. Kept in the actor for the next step that asks."""

    def make() -> Nearest:
        blocks = [
            nearest(centroids, block, block_lengths(centroids, rows, first, block), second=True)
            for first, block in rows.blocks(unit=False)
        ]
        return Nearest(
            np.concatenate([np.empty(0, np.int32), *(block.place for block in blocks)]),
            np.concatenate([np.empty(0, np.float32), *(block.distance for block in blocks)]),
            np.concatenate([np.empty(0, np.int32), *(block.second for block in blocks)]),
        )

    found: Nearest = rows.remember(f"clusters {centroids.digest}", make)
    return found


def _among(vectors: Floats, rows: Floats, lengths: Floats | None, second: bool, exact: bool) -> Nearest:
    """`lengths`: of the rows, for cosine; None: l2."""
    l2 = lengths is None
    origin = vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if l2 else np.float32(0)
    centres = vectors - origin  # l2 is the same around any origin; around the data's own the products lose no digits
    half_squares = np.einsum("kd,kd->k", centres, centres) / 2 if l2 else None
    places, distances, seconds = [], [], []
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[at : at + _ROWS_AT_ONCE]
        around = some - origin if l2 else some
        scores = around @ centres.T
        if half_squares is not None:
            scores -= half_squares
        best = scores.argmax(axis=1)
        score = scores[np.arange(len(some)), best]
        if lengths is not None:  # its length moves no row to another cluster, so that scores alone are divided by it
            distances.append(np.maximum(1 - score / lengths[at : at + _ROWS_AT_ONCE], 0))
        elif exact:
            difference = centres[best] - around
            distances.append(np.sqrt(np.einsum("nd,nd->n", difference, difference)))
        else:
            distances.append(np.sqrt(np.maximum(np.einsum("nd,nd->n", around, around) - 2 * score, 0)))
        places.append(best.astype(np.int32))
        if second and len(vectors) > 1:
            scores[np.arange(len(some)), best] = -np.inf
            seconds.append(scores.argmax(axis=1).astype(np.int32))
        else:
            seconds.append(np.full(len(some), NONE, np.int32))
    if not places:
        return Nearest(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32))
    return Nearest(np.concatenate(places), np.concatenate(distances), np.concatenate(seconds))

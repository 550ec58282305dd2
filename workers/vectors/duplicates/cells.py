"""Cells: k-means centroids of a sample of texts. Rows near each other mostly fall into the same cells.

    SampleTexts    the texts whose hash is below a limit, each once a shard
    find_cells     spherical k-means of the sample, on one thread; in two levels beyond FLAT centroids

The sample depends on the texts alone, not on their order or on shards. Copies of a text count once, so a text that makes up
a third of the rows does not draw a third of the centroids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from workers.table.schema import CHUNK
from workers.table.vectors import Floats
from workers.vectors.duplicates.exact import hashes_of
from workers.vectors.kmeans import train
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

MOST_CELLS = 32_768  # by `auto`: 48 MiB of centroids at 384 components
SAMPLE_A_CELL = 64  # texts of the sample for each centroid: within 3% of the inertia of k-means on everything
SAMPLE_BYTES = 1 << 30  # of the sample's vectors, which are in the driver's memory and in the journal
FLAT = 1024  # centroids that are found at once; more in two levels, which costs 2 sqrt(k) and not k products a text
ITERATIONS = 15
SEED = 1234


def cells_for(rows: int) -> int:
    """`clusters: auto`: the square root of the rows, so that finding cells costs about as much as looking into them."""
    return max(1, min(MOST_CELLS, math.isqrt(rows)))


def sample_share(rows: int, cells: int, dim: int) -> float:
    """The share of the texts that is enough to find so many cells."""
    return min(1.0, min(SAMPLE_A_CELL * cells, SAMPLE_BYTES // (4 * dim)) / rows)


@dataclass(frozen=True)
class SampleTexts(Step):
    """`share`: of the texts, 0 to 1."""

    share: float
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        keys = _keys(rows)
        limit = np.uint64(min(self.share, 1.0) * float(2**64 - 2**11))
        _, first = np.unique(keys, return_index=True)
        chosen = np.sort(first[keys[first] <= limit])
        return {"keys": keys[chosen], "vectors": rows.take(chosen, unit=True)}

    def combiner(self) -> Combiner:
        return Concatenation()


def _keys(rows: ShardRows) -> NDArray[np.uint64]:
    """[N] a hash of each row's text, of its chunk also."""
    hashes = hashes_of(rows)
    keys: NDArray[np.uint64] = hashes["low"].copy()
    if CHUNK in rows.columns.column_names:
        keys ^= hashes["chunk"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def find_cells(sample: Partial, cells: int) -> Floats:
    """[cells or fewer, D] centroids of unit length. `sample`: of SampleTexts."""
    _, first = np.unique(sample["keys"], return_index=True)  # by key: the order of shards does not matter
    vectors = np.ascontiguousarray(sample["vectors"][first], np.float32)
    cells = min(cells, len(vectors))
    with threadpool_limits(limits=1):
        if cells <= FLAT:
            return _k_means(vectors, cells)
        coarse = _k_means(vectors, math.isqrt(cells))
        nearest = np.concatenate(
            [(vectors[at : at + 4096] @ coarse.T).argmax(axis=1) for at in range(0, len(vectors), 4096)]
        )
        sizes = np.bincount(nearest, minlength=len(coarse))
        parts = [(vectors[nearest == cell], int(share)) for cell, share in enumerate(_shares(sizes, cells)) if share]
        return np.concatenate([_k_means(members, share) for members, share in parts])


def _shares(sizes: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """Centroids of each coarse cell, in proportion to its members: a crowded region gets more of them."""
    shares = np.maximum(sizes * cells // sizes.sum(), 1)
    taken: NDArray[np.int64] = np.minimum(shares, sizes)
    return taken


def _k_means(vectors: Floats, cells: int) -> Floats:
    if cells >= len(vectors):
        return vectors
    return train(vectors, cells, iterations=ITERATIONS, seed=SEED, spherical=True)

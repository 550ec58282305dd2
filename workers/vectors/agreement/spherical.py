"""k-means by cosine (spherical k-means, Dhillon and Modha 2001) over a snapshot, for V-measure.

    LabelCounts    the classes of a column, and the rows of each
    StartSample    vectors of some distinct texts, chosen by their text hash
    start          centroids of that sample: k-means++, then Lloyd's iterations
    LloydPass      sums of the rows nearest to each centroid, and of 1 - cosine; moved() gives the next centroids
    Contingency    rows of each class in each cluster

Rows without a label take no part. Axes: L classes, K centroids, D components, N rows of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.table.schema import TEXT_HASH
from workers.table.vectors import Floats, unit_rows
from workers.vectors.retrieval.texts import halves, hashes
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Partial, Step

SAMPLE_ITERATIONS = 20


@dataclass(frozen=True)
class LabelCounts(Step):
    """Partial: `label` (text, ascending) and `rows`, and `unlabelled`, the rows whose label is null."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def of_shard(self, rows: ShardRows) -> Partial:
        labels = _labels(rows, self.column)
        return _counted(Counter(labels.drop_null().to_pylist()), labels.null_count)

    def combiner(self) -> Combiner:
        return _Counts()


class _Counts(Combiner):
    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._unlabelled = 0

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        self._rows.update(dict(zip(partial["label"].tolist(), partial["rows"].tolist(), strict=True)))
        self._unlabelled += int(partial["unlabelled"])

    def result(self) -> Partial:
        return _counted(self._rows, self._unlabelled)


def _counted(rows: Mapping[str, int], unlabelled: int) -> Partial:
    labels = sorted(rows)
    return {
        "label": np.array(labels, dtype=np.str_) if labels else np.zeros(0, dtype="U1"),
        "rows": np.array([rows[label] for label in labels], dtype=np.int64),
        "unlabelled": np.array(unlabelled),
    }


@dataclass(frozen=True)
class StartSample(Step):
    """Unit vectors of the `most` labelled texts with the smallest text hashes. Partial: draw (uint64) and vectors."""

    column: str
    most: int

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TEXT_HASH, self.column)

    def of_shard(self, rows: ShardRows) -> Partial:
        labelled = _labels(rows, self.column).is_valid().to_numpy(zero_copy_only=False)
        draw, first = np.unique(halves(hashes(rows.column(TEXT_HASH)))[0], return_index=True)
        chosen = labelled[first]
        draw, first = draw[chosen][: self.most], first[chosen][: self.most]
        return {"draw": draw, "vectors": rows.take(first.astype(np.int64), unit=True)} if len(draw) else {}

    def combiner(self) -> Combiner:
        return _SmallestDraws(self.most)


class _SmallestDraws(Combiner):
    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        if not partial:
            return
        both = [self._kept, partial] if self._kept else [partial]
        draw, first = np.unique(np.concatenate([piece["draw"] for piece in both]), return_index=True)
        vectors = np.concatenate([piece["vectors"] for piece in both])
        self._kept = {"draw": draw[: self._most], "vectors": vectors[first[: self._most]]}

    def result(self) -> Partial:
        return self._kept


def start(sample: Floats, clusters: int) -> Floats:
    """[clusters, D] unit centroids of a sample of unit vectors, of which there are at least `clusters`.

    k-means++ (Arthur and Vassilvitskii 2007) by cosine distance with fixed random numbers, then Lloyd's iterations.
    """
    draws = np.random.default_rng(0)
    chosen = [int(draws.integers(len(sample)))]
    distance = np.full(len(sample), np.inf)
    for _ in range(1, clusters):
        distance = np.minimum(distance, np.maximum(1 - sample @ sample[chosen[-1]], 0).astype(np.float64))
        cumulated = np.cumsum(distance)
        if cumulated[-1] <= 0:  # all that is left are copies
            chosen.append(int(np.setdiff1d(np.arange(len(sample)), chosen)[0]))
            continue
        chosen.append(min(int(np.searchsorted(cumulated, draws.random() * cumulated[-1], "right")), len(sample) - 1))
    centroids = sample[chosen]
    for _ in range(SAMPLE_ITERATIONS):
        sums, counts, _ = _sums(sample, centroids)
        centroids = moved(centroids, sums, counts)
    return centroids


def moved(centroids: Floats, sums: NDArray[np.float64], counts: NDArray[np.int64]) -> Floats:
    """The direction of each sum; a centroid without rows stays."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    usable = (counts[:, None] > 0) & (lengths > 0)
    return np.where(usable, sums / np.where(lengths > 0, lengths, 1), centroids).astype(np.float32)


@dataclass(frozen=True)
class LloydPass(Step):
    """Partial: of the labelled rows nearest to each centroid `sums` [K, D] and `counts` [K]; `distance`, a sum."""

    column: str
    centroids: Floats

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def of_shard(self, rows: ShardRows) -> Partial:
        codes = _labels(rows, self.column).is_valid().to_numpy(zero_copy_only=False)
        sums, counts, distance = np.zeros(self.centroids.shape), np.zeros(len(self.centroids), np.int64), 0.0
        for first, block in rows.blocks(unit=True):
            more = _sums(block[codes[first : first + len(block)]], self.centroids)
            sums, counts, distance = sums + more[0], counts + more[1], distance + more[2]
        return {"sums": sums, "counts": counts, "distance": np.array(distance)}


@dataclass(frozen=True)
class Contingency(Step):
    """Partial: `rows` [L, K] of each class whose nearest centroid is each. `labels`: as LabelCounts has them."""

    column: str
    labels: NDArray[np.str_]
    centroids: Floats

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.column,)

    def of_shard(self, rows: ShardRows) -> Partial:
        places = pc.index_in(_labels(rows, self.column), value_set=pa.array(self.labels.tolist(), pa.string()))
        codes = pc.fill_null(places, -1).to_numpy().astype(np.int64)
        clusters = len(self.centroids)
        table = np.zeros(len(self.labels) * clusters, np.int64)
        for first, block in rows.blocks(unit=True):
            code = codes[first : first + len(block)]
            labelled = code >= 0
            cell = code[labelled] * clusters + nearest_centroids(block[labelled], self.centroids)
            table += np.bincount(cell, minlength=len(table))
        return {"rows": table.reshape(len(self.labels), clusters)}


def nearest_centroids(vectors: Floats, centroids: Floats) -> NDArray[np.int64]:
    """[N] the centroid of the largest cosine; of equal ones the first."""
    nearest: NDArray[np.int64] = np.argmax(vectors @ centroids.T, axis=1).astype(np.int64)
    return nearest


def _sums(vectors: Floats, centroids: Floats) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    nearest = nearest_centroids(vectors, centroids) if len(vectors) else np.zeros(0, np.int64)
    counts = np.bincount(nearest, minlength=len(centroids))
    sums = np.zeros(centroids.shape)
    order = np.argsort(nearest, kind="stable")
    filled = np.flatnonzero(counts)
    if len(filled):
        starts = (np.cumsum(counts) - counts)[filled]
        sums[filled] = np.add.reduceat(vectors[order].astype(np.float64), starts.tolist(), axis=0)
    cosines = (vectors.astype(np.float64) * centroids[nearest]).sum()
    return sums, counts.astype(np.int64), float(len(vectors) - cosines)


def _labels(rows: ShardRows, column: str) -> pa.Array:
    """[N] the column as text."""

    def make() -> pa.Array:
        cells = rows.column(column).cast(pa.string())
        return cells.combine_chunks() if cells.num_chunks != 1 else cells.chunk(0)

    return rows.remember(f"labels {column}", make)


def unit_sample(sample: Partial) -> Floats:
    """Its vectors; empty where no row has a label."""
    return unit_rows(sample["vectors"]) if sample else np.zeros((0, 0), np.float32)

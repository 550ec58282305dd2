"""k nearest neighbours as a classifier: what the vectors say of a row without a probe.

    Queries   one pass: unit vectors of some test rows
    Nearest   one pass: the nearest training rows of each query, and their labels

Similarity is the cosine, exact; a class is predicted by the majority of 5 neighbours, of equally many votes the first in the
order of classes (as scikit-learn's KNeighborsClassifier). Axes: Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.evaluation.classes.division import MAIN, NAIVE, QUERY, Division, uniform
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

NEIGHBOURS = 5
QUERIES, LEAST_QUERIES = 16_384, 2048  # about, of each division
PAIRS = 2_000_000_000  # of queries and training rows; beyond, fewer queries are asked
QUERY_CELLS = 8_000_000  # components of all queries of a division: 32 MB, sent to every actor
_AT_ONCE = 1024  # queries: similarities of a block are 16 MB
_FEW = 64  # rows of a block that are nearer than those found before: beyond, a selection among all rows is faster


@dataclass(frozen=True)
class Queries(Step):
    """Partial: `vectors` [Q, D] of length 1, `truth` [Q, K] uint8, `tested` [2, Q] by division (as rows [Q, 2])."""

    division: Division
    known: NDArray[np.bool_]  # [K] rows of other classes are left out
    share: float  # of the test rows
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, classes = self.division.used(rows), len(self.known)
        found: list[tuple[Floats, NDArray[np.uint8], NDArray[np.bool_]]] = []
        for numbers, vectors in used.blocks(rows, unit=True):
            truth = used.truth(numbers, classes)
            counted = (truth[:, self.known] > 0).any(axis=1)
            mine = used.tested[:, numbers].any(axis=0) & counted & (uniform(used.keys[numbers], QUERY) < self.share)
            found.append((vectors[mine], truth[mine].astype(np.uint8), used.tested[:, numbers[mine]].T))
        if not found:
            return {}
        names = ("vectors", "truth", "tested")
        return {name: np.concatenate([each[place] for each in found]) for place, name in enumerate(names)}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class Nearest(Step):
    """Partial: `similarity` [2, Q, 5] descending, `truth` [2, Q, 5, K] uint8 of the neighbours, by division."""

    division: Division
    vectors: Floats  # [Q, D]
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        used, classes = self.division.used(rows), len(self.division.classes)
        shape = (2, len(self.vectors), NEIGHBOURS)
        similarity, nearest = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        for numbers, vectors in used.blocks(rows, unit=True):
            for first in range(0, len(self.vectors), _AT_ONCE):
                here = slice(first, first + _AT_ONCE)
                products = self.vectors[here] @ vectors.T
                for split in (MAIN, NAIVE):
                    training = ~used.tested[split, numbers]
                    if training.any():
                        _take(similarity[split, here], nearest[split, here], products[:, training], numbers[training])
        truth = used.truth(np.maximum(nearest, 0).ravel(), classes) if len(used) else np.zeros((nearest.size, classes))
        return {"similarity": similarity, "truth": truth.astype(np.uint8).reshape(*shape, classes)}

    def combiner(self) -> Combiner:
        return _Closest()


def _take(similarity: Floats, nearest: NDArray[np.int64], products: Floats, numbers: NDArray[np.int64]) -> None:
    """Merge a block [q, n] into the best so far [q, 5], in place. Of equal ones the earlier row stays."""
    nearer = products > similarity[:, -1:]
    most = int(nearer.sum(axis=1).max(initial=0))
    if not most:
        return
    if most <= _FEW:
        places = np.zeros((len(products), most), np.int64)
        queries, columns = np.nonzero(nearer)
        counts = np.bincount(queries, minlength=len(products))
        within = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
        places[queries, within] = columns
        there = np.arange(most) < counts[:, None]
    else:
        most = min(NEIGHBOURS, products.shape[1])
        places = np.sort(np.argpartition(-products, most - 1, axis=1)[:, :most], axis=1)
        there = np.ones(places.shape, bool)
    found = np.where(there, np.take_along_axis(products, places, axis=1), -np.inf)
    values = np.concatenate([similarity, found], axis=1)
    rows = np.concatenate([nearest, numbers[places]], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :NEIGHBOURS]
    similarity[:] = np.take_along_axis(values, order, axis=1)
    nearest[:] = np.take_along_axis(rows, order, axis=1)


class _Closest(Combiner):
    """Keeps the nearest of all shards."""

    def __init__(self) -> None:
        self._best: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        if not self._best:
            self._best = dict(partial)
            return
        values = np.concatenate([self._best["similarity"], partial["similarity"]], axis=2)
        truths = np.concatenate([self._best["truth"], partial["truth"]], axis=2)
        order = np.argsort(-values, axis=2, kind="stable")[:, :, :NEIGHBOURS]
        self._best = {
            "similarity": np.take_along_axis(values, order, axis=2),
            "truth": np.take_along_axis(truths, order[..., None], axis=2),
        }

    def result(self) -> Partial:
        return self._best


def query_count(training_rows: int, components: int) -> int:
    """Queries that one pass can afford."""
    wanted = max(LEAST_QUERIES, min(QUERIES, PAIRS // max(1, training_rows)))
    return min(wanted, QUERY_CELLS // components)


def voted(truth: NDArray[np.uint8], similarity: Floats, *, several: bool) -> NDArray[np.bool_]:
    """[Q, K] the prediction of neighbours [Q, 5, K]: the class of most of them, or every class of more than half."""
    votes = (truth * np.isfinite(similarity)[..., None]).sum(axis=1)
    if several:
        return np.asarray(votes * 2 > NEIGHBOURS)
    chosen = np.zeros(votes.shape, bool)
    chosen[np.arange(len(votes)), votes.argmax(axis=1)] = True
    return chosen

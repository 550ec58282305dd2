"""Between the passes: centroids of a sample, the centroids after a pass, and the clusters' numbers.

start           k-means of a sample by faiss, in one thread and from a fixed seed: the same bits each time
after_pass      Lloyd's update, or a longer step in its direction; an empty cluster is given a far row
largest_first   numbers of a first run
as_before       numbers by the clusters of last night that they continue
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from workers.table.vectors import Floats, unit_rows
from workers.vectors.clustering.centroids import L2, Centroids, by_group, nearest
from workers.vectors.kmeans import train
from workers.vectors.step import Partial

ONE_LEVEL = 4096  # clusters; more have two levels
SEED = 20_261_128
OVER_RELAXED = 1.5  # of Lloyd's step: two thirds of the passes for the same inertia, and no pass that raises it
_FIRST_ROWS, _FIRST_ITERATIONS = 32, 10  # of faiss: rows a cluster of a part of the sample, and iterations on it
_ITERATIONS = 4  # of faiss on the whole sample: from there as good as ten from the beginning, in two thirds of the time
_MATCHED = 4096  # centroids of last night that are matched at once: the costs are a matrix


def start(sample: Floats, clusters: int, metric: str) -> Centroids:
    """Centroids of the sample [n, D], which has at least as many distinct rows as clusters."""
    if clusters <= ONE_LEVEL:
        return Centroids.flat(metric, _kmeans(sample, clusters, metric))
    cells = round(clusters**0.5)
    coarse = _kmeans(sample, cells, metric)
    place = nearest(Centroids.flat(metric, coarse), sample).place
    coarse, place = _only_used(coarse, place)
    members = dict(by_group(place))
    shares = _shares([_distinct(sample[here], len(here)) for here in members.values()], clusters)
    vectors = [_kmeans(sample[here], share, metric) for here, share in zip(members.values(), shares, strict=True)]
    borders = np.cumsum([0, *shares]).astype(np.int64)
    return Centroids(metric, np.concatenate(vectors), np.arange(clusters, dtype=np.int32), coarse, borders)


def distinct_rows(sample: Floats, enough: int) -> int:
    """Distinct rows of the sample; counting stops at `enough`."""
    return _distinct(sample, enough)


def after_pass(centroids: Centroids, totals: Partial, step: float = 1.0) -> tuple[Centroids, int]:
    """The centroids after a pass, and how many clusters were empty in it.

    An empty cluster is given the farthest row that is left, with two levels of its own cell; without one it stays.

    Args:
        step: how far a centroid goes towards the mean of its rows: 1 is there, more is beyond it. Below 2 the inertia does
            not rise: with the rows of a pass, all but (step - 1)^2 of what the means would lower it by is kept
            (over-relaxation; Salakhutdinov and Roweis, "Adaptive overrelaxed bound optimization methods", 2003).
    """
    counts = totals["counts"]
    before = centroids.vectors.astype(np.float64)
    means = totals["sums"] / np.maximum(counts, 1)[:, None]
    if centroids.unit:
        means = _unit(means, before)
    vectors = np.where(counts[:, None] > 0, before + step * (means - before), before)
    empty = np.flatnonzero(counts == 0)
    free, cells = list(range(len(totals["far_vectors"]))), centroids.cells
    for place in empty:
        found = next((row for row in free if totals["far_cell"][row] == cells[place]), None)
        if found is not None:
            free.remove(found)
            vectors[place] = totals["far_vectors"][found]
    if centroids.unit:
        vectors = _unit(vectors, before)
    return replace(centroids, vectors=vectors.astype(np.float32)), len(empty)


def _unit(vectors: NDArray[np.float64], instead: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K, D] of length 1; where a length is 0, the row of `instead`."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 0, vectors / np.maximum(lengths, 1e-30), instead)


def largest_first(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """[K] number of each place: 0 has most rows."""
    numbers = np.empty(len(counts), np.int32)
    numbers[np.argsort(-counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    return numbers


def as_before(centroids: Centroids, before: Centroids, counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """[K] numbers: each cluster has that of the one of last night that it continues, the others what is free.

    Pairs are those of the least total distance between centroids (the Hungarian method, Kuhn 1955). With more than 4,096
    clusters they are matched cell by cell.
    """
    numbers = np.full(len(centroids), -1, np.int32)
    for here, there in _groups(centroids, before):
        for place, other in zip(*_matched(centroids.vectors[here], before.vectors[there], centroids.metric), strict=True):
            number = before.numbers[there[other]]
            if number < len(centroids):
                numbers[here[place]] = number
    free = iter(np.setdiff1d(np.arange(len(centroids), dtype=np.int32), numbers))
    for place in np.argsort(-counts, kind="stable"):
        if numbers[place] < 0:
            numbers[place] = next(free)
    return numbers


def _groups(centroids: Centroids, before: Centroids) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of both that are matched with each other."""
    if not len(centroids.coarse) or not len(before.coarse):
        if max(len(centroids), len(before)) > _MATCHED:
            return []  # one level became two: there is nothing to continue
        return [(np.arange(len(centroids)), np.arange(len(before)))]
    cells, others = _matched(centroids.coarse, before.coarse, centroids.metric)
    mine, theirs = centroids.cells, before.cells
    return [
        (np.flatnonzero(mine == cell), np.flatnonzero(theirs == other)) for cell, other in zip(cells, others, strict=True)
    ]


def _matched(ours: Floats, theirs: Floats, metric: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from scipy.optimize import linear_sum_assignment

    with threadpool_limits(limits=1):
        products = ours.astype(np.float64) @ theirs.astype(np.float64).T
    costs = -products
    if metric == L2:
        squares = [np.einsum("kd,kd->k", vectors, vectors, dtype=np.float64) for vectors in (ours, theirs)]
        costs = np.sqrt(np.maximum(squares[0][:, None] + squares[1][None, :] - 2 * products, 0))
    matched: tuple[NDArray[np.int64], NDArray[np.int64]] = linear_sum_assignment(costs)
    return matched


def _kmeans(sample: Floats, clusters: int, metric: str) -> Floats:
    """[clusters, D]"""
    if clusters == 1:
        mean = sample.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        return mean if metric == L2 else unit_rows(mean)
    spherical, first = metric != L2, _FIRST_ROWS * clusters
    if len(sample) < 2 * first:
        return train(sample, clusters, iterations=_FIRST_ITERATIONS, seed=SEED, spherical=spherical)
    begun = train(sample[:first], clusters, iterations=_FIRST_ITERATIONS, seed=SEED, spherical=spherical)
    return train(sample, clusters, iterations=_ITERATIONS, seed=SEED, spherical=spherical, begun=begun)


def _distinct(rows: Floats, enough: int) -> int:
    seen: set[bytes] = set()
    for row in rows:
        seen.add(row.tobytes())
        if len(seen) >= enough:
            break
    return len(seen)


def _only_used(coarse: Floats, place: NDArray[np.int32]) -> tuple[Floats, NDArray[np.int32]]:
    """Without the cells that no row of the sample is in."""
    used, inverse = np.unique(place, return_inverse=True)
    return coarse[used], inverse.astype(np.int32)


def _shares(distinct: list[int], clusters: int) -> list[int]:
    """Clusters of each cell, in proportion to its distinct rows and never more than them; they add up to `clusters`."""
    wanted = np.array(distinct, np.float64) * clusters / sum(distinct)
    shares = np.maximum(1, np.floor(wanted)).astype(np.int64)
    while shares.sum() != clusters:
        short = shares.sum() < clusters
        room = np.array(distinct) > shares if short else shares > 1
        behind = np.where(room, wanted - shares if short else shares - wanted, -np.inf)
        shares[int(behind.argmax())] += 1 if short else -1
    return [int(share) for share in shares]

"""Maths of clusters: one Lloyd pass against NumPy in float64, empty clusters, numbers, keys, the plane."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from workers.records.documents import text_hash
from workers.table.vectors import unit_rows
from workers.vectors.clustering.centroids import Centroids, by_group, lengths_of, nearest
from workers.vectors.clustering.description import first_of_each
from workers.vectors.clustering.fit import OVER_RELAXED, after_pass, as_before, largest_first, start
from workers.vectors.clustering.picture import on_plane, plane_of
from workers.vectors.clustering.row_keys import below, row_keys
from workers.vectors.clustering.steps import sums_by_cluster

DIM = 24


def _rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def _totals(rows: np.ndarray, place: np.ndarray, clusters: int) -> dict[str, np.ndarray]:
    """What a pass sums, by NumPy; no far rows."""
    sums = np.stack([rows[place == number].astype(np.float64).sum(axis=0) for number in range(clusters)])
    counts = np.bincount(place, minlength=clusters)
    return {"sums": sums, "counts": counts, "far_vectors": np.empty((0, rows.shape[1])), "far_cell": np.empty(0, np.int64)}


def test_sums_by_cluster_are_those_of_numpy() -> None:
    rows, place = _rows(3000), np.random.default_rng(1).integers(0, 7, 3000).astype(np.int32)
    expected = np.stack([rows[place == number].astype(np.float64).sum(axis=0) for number in range(8)])
    np.testing.assert_allclose(sums_by_cluster(place, rows, 8), expected, atol=2e-4)


def test_rows_of_any_length_count_as_their_direction() -> None:
    """Cosine against NumPy in float64, over rows of length 1; a row of zeros is at distance 1 from every cluster."""
    rows = _rows(2000) * np.geomspace(1e-6, 1e6, 2000, dtype=np.float32)[:, None]
    rows[7] = 0
    centroids = Centroids.flat("cosine", unit_rows(_rows(9, seed=4)))
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1)
    cosines = unit @ centroids.vectors.T.astype(np.float64)
    found = nearest(centroids, rows)
    np.testing.assert_allclose(found.distance, 1 - cosines.max(axis=1), atol=1e-6)
    assert (found.place == cosines.argmax(axis=1)).mean() > 0.999
    expected = np.stack([unit[found.place == number].sum(axis=0) for number in range(9)])
    np.testing.assert_allclose(sums_by_cluster(found.place, rows, 9, 1 / lengths_of(rows)), expected, atol=2e-4)


def test_l2_holds_far_from_the_origin() -> None:
    """Squares of 10,000 and more cancel in float32 unless the rows are centred."""
    rows = _rows(2000) + np.float32(1000)
    centroids = Centroids.flat("l2", rows[:50].copy())
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - centroids.vectors[None].astype(np.float64), axis=2)
    found = nearest(centroids, rows, second=True)
    assert (found.place == distances.argmin(axis=1)).all()
    np.testing.assert_allclose(found.distance, distances.min(axis=1), rtol=1e-5, atol=1e-5)
    order = np.argsort(distances, axis=1)
    assert (found.second == order[:, 1]).mean() > 0.999


def test_an_empty_cluster_is_given_the_farthest_row_of_its_cell() -> None:
    vectors = _rows(4)
    totals = {
        "sums": np.stack([vectors[0] * 2, np.zeros(DIM), vectors[2] * 3, np.zeros(DIM)]).astype(np.float64),
        "counts": np.array([2, 0, 3, 0]),
        "far_vectors": _rows(3, seed=2),
        "far_cell": np.array([1, 0, 1]),
    }
    flat = Centroids.flat("l2", vectors)
    updated, empty = after_pass(flat, totals | {"far_cell": np.zeros(3, np.int64)})
    assert empty == 2
    np.testing.assert_allclose(
        updated.vectors, np.stack([vectors[0], totals["far_vectors"][0], vectors[2], totals["far_vectors"][1]])
    )
    two = replace(flat, coarse=_rows(2, seed=3), borders=np.array([0, 2, 4]))
    updated, _ = after_pass(two, totals)
    np.testing.assert_allclose(updated.vectors[[1, 3]], totals["far_vectors"][[1, 0]])


def test_a_longer_step_lowers_the_inertia_of_the_same_rows_by_what_the_formula_says() -> None:
    rows, place = _rows(500), np.random.default_rng(2).integers(0, 5, 500)
    centroids = Centroids.flat("l2", _rows(5, seed=3))
    totals = _totals(rows, place, 5)

    def inertia(step: float) -> float:
        vectors = after_pass(centroids, totals, step)[0].vectors.astype(np.float64)
        return float(((rows - vectors[place]) ** 2).sum())

    before, at_means = inertia(0.0), inertia(1.0)
    for step in (0.5, OVER_RELAXED, 1.9):
        assert inertia(step) == pytest.approx(at_means + (step - 1) ** 2 * (before - at_means), rel=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_longer_steps_take_fewer_passes_and_none_raises_the_inertia(metric: str) -> None:
    """Lloyd's algorithm in NumPy as the measure: what it reaches in nine passes takes at most six."""
    rows = _rows(4000)
    if metric == "cosine":
        rows = unit_rows(rows)

    def inertias(step: float) -> list[float]:
        centroids, found = Centroids.flat(metric, rows[:40].copy()), []
        for _ in range(9):
            squares = ((rows[:, None, :] - centroids.vectors[None]) ** 2).sum(axis=2)
            place = squares.argmin(axis=1)
            found.append(float(squares.min(axis=1).sum()))
            centroids, empty = after_pass(centroids, _totals(rows, place, 40), step)
            assert empty == 0
        return found

    lloyd, longer = inertias(1.0), inertias(OVER_RELAXED)
    assert all(later < earlier for earlier, later in pairwise(longer))
    assert longer[6] < lloyd[8]


def test_numbers_begin_with_the_largest_and_follow_last_nights_centroids() -> None:
    assert largest_first(np.array([5, 9, 9, 1])).tolist() == [2, 0, 1, 3]
    before = replace(Centroids.flat("cosine", unit_rows(_rows(6))), numbers=np.array([3, 1, 4, 0, 5, 2], np.int32))
    order = np.array([4, 2, 0, 5, 1, 3])
    moved = Centroids.flat("cosine", unit_rows(before.vectors[order] + 0.02 * _rows(6, seed=4)))
    assert as_before(moved, before, np.arange(6)).tolist() == before.numbers[order].tolist()
    more = Centroids.flat("cosine", np.concatenate([moved.vectors, unit_rows(_rows(2, seed=5))]))
    numbers = as_before(more, before, np.array([1, 1, 1, 1, 1, 1, 7, 9]))
    assert numbers[:6].tolist() == before.numbers[order].tolist()
    assert numbers[6:].tolist() == [7, 6], "the larger of the new clusters has the smaller number"
    fewer = as_before(Centroids.flat("cosine", moved.vectors[:3]), before, np.array([1, 2, 3]))
    assert sorted(fewer.tolist()) == [0, 1, 2], "numbers stay below the number of clusters"


def test_the_start_is_the_same_each_time_and_two_levels_have_all_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(2000)
    assert start(rows, 30, "l2").digest == start(rows, 30, "l2").digest
    monkeypatch.setattr("workers.vectors.clustering.fit.ONE_LEVEL", 20)
    two = start(rows, 150, "cosine")
    assert len(two) == 150
    assert two.borders[-1] == 150
    assert (np.diff(two.borders) > 0).all()
    found = nearest(two, rows, second=True)
    cells = nearest(Centroids.flat("cosine", two.coarse), rows).place
    assert (two.cells[found.place] == cells).all()
    for cell, here in by_group(cells):
        inside = np.flatnonzero(two.cells == cell)
        scores = rows[here] @ two.vectors[inside].T
        assert (found.place[here] == inside[scores.argmax(axis=1)]).all()


def test_keys_depend_on_the_row_alone_and_are_even() -> None:
    ids = pa.chunked_array([[f"id-{row}" for row in range(20_000)]])
    hashes = pa.chunked_array([pa.array([text_hash(f"text {row}") for row in range(20_000)], pa.binary(16))])
    keys = row_keys(ids, hashes, None, None)
    assert len(set(keys.tolist())) == 20_000
    assert (keys < below(0.1)).mean() == pytest.approx(0.1, abs=0.01)
    assert below(1.0) == np.uint64(2**64 - 1)
    backwards = row_keys(ids.take(pa.array(range(19_999, -1, -1))), hashes.take(pa.array(range(19_999, -1, -1))), None, None)
    assert (backwards[::-1] == keys).all()
    numbers = row_keys(pa.chunked_array([[1, 2]]), hashes.slice(0, 2), None, None)
    assert (numbers == row_keys(pa.chunked_array([["1", "2"]]), hashes.slice(0, 2), None, None)).all()
    chunks = row_keys(pa.chunked_array([["a", "a"]]), hashes.take(pa.array([0, 0])), pa.chunked_array([[0, 1]]), None)
    assert chunks[0] != chunks[1]
    tokens = row_keys(ids.slice(0, 3), hashes.slice(0, 3), None, np.array([2, 0, 3]))
    assert len(set(tokens.tolist())) == 5


def test_first_of_each_group() -> None:
    groups, key = np.array([2, 0, 2, 2, 0, 5]), np.array([9, 1, 3, 4, 0, 7])
    assert sorted(first_of_each(groups, (key,), 2).tolist()) == [1, 2, 3, 4, 5]
    assert first_of_each(groups[:0], (key[:0],), 2).tolist() == []


def test_the_plane_is_scikit_learns() -> None:
    rows = _rows(500) * np.linspace(3, 0.1, DIM, dtype=np.float32)
    plane, expected = plane_of(rows), PCA(2, svd_solver="full").fit(rows.astype(np.float64))
    points = expected.transform(rows)
    np.testing.assert_allclose(np.abs(on_plane(plane, rows)), np.abs(points), atol=1e-4)
    assert plane["share"] == pytest.approx(expected.explained_variance_ratio_.sum(), rel=1e-6)
    assert plane_of(rows[:0])["axes"].shape == (2, DIM)

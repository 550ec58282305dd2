"""Spherical k-means as passes: centroids against sums by NumPy, and planted clusters found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.vector_snapshots import passes_over, publish_vectors
from workers.vectors.agreement.spherical import (
    Contingency,
    LabelCounts,
    LloydPass,
    StartSample,
    moved,
    nearest_centroids,
    start,
)

ROWS, DIM, CLUSTERS = 5000, 12, 6


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, list[str | None]]:
    draw = np.random.default_rng(5)
    centres, group = draw.standard_normal((CLUSTERS, DIM)) * 4, draw.integers(0, CLUSTERS, ROWS)
    vectors = (centres[group] + draw.standard_normal((ROWS, DIM))).astype(np.float32)
    return vectors, [None if row % 50 == 0 else f"class {group[row] // 2}" for row in range(ROWS)]


@pytest.fixture(scope="module")
def output(planted: tuple[np.ndarray, list[str | None]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spherical") / "out"
    publish_vectors(folder, planted[0], keep={"label": pa.array(planted[1])}, shards=3)
    return folder


def test_a_pass_sums_what_numpy_sums(output: Path, planted: tuple[np.ndarray, list[str | None]]) -> None:
    labelled = np.array([label is not None for label in planted[1]])
    unit = planted[0] / np.linalg.norm(planted[0], axis=1, keepdims=True)
    centroids = unit[[1, 2, 3, 4]]
    found = []
    for threads in (1, 2, 3):
        with passes_over(output, ["text_hash", "label"], threads=threads) as passes:
            found.append(passes.run(LloydPass("label", centroids)))
    nearest = np.argmax(unit[labelled].astype(np.float64) @ centroids.T, axis=1)
    assert found[0]["counts"].tolist() == np.bincount(nearest, minlength=4).tolist()
    for cluster in range(4):
        expected = unit[labelled][nearest == cluster].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(found[0]["sums"][cluster], expected, rtol=1e-6, atol=1e-5)
    distance = (1 - (unit[labelled].astype(np.float64) * centroids[nearest]).sum(axis=1)).sum()
    assert float(found[0]["distance"]) == pytest.approx(distance, rel=1e-6)
    assert len({result["sums"].tobytes() for result in found}) == 1


def test_planted_clusters_are_found(output: Path, planted: tuple[np.ndarray, list[str | None]]) -> None:
    with passes_over(output, ["text_hash", "label"]) as passes:
        counts = passes.run(LabelCounts("label"))
        sample = passes.run(StartSample("label", 600))["vectors"]
        centroids = start(sample, CLUSTERS)
        for _ in range(3):
            total = passes.run(LloydPass("label", centroids))
            centroids = moved(centroids, total["sums"], total["counts"])
        table = passes.run(Contingency("label", counts["label"], centroids))["rows"]
    labels = [label for label in planted[1] if label is not None]
    assert counts["label"].tolist() == sorted(set(labels))
    assert (counts["rows"].sum(), counts["unlabelled"]) == (len(labels), ROWS - len(labels))
    assert table.sum() == len(labels)
    assert (np.sort(table, axis=0)[-1].sum() / table.sum()) > 0.99, "each cluster holds one class"
    unit = planted[0] / np.linalg.norm(planted[0], axis=1, keepdims=True)
    nearest = nearest_centroids(unit, centroids)
    for place, label in enumerate(counts["label"]):
        rows = [row for row, given in enumerate(planted[1]) if given == label]
        assert table[place].tolist() == np.bincount(nearest[rows], minlength=CLUSTERS).tolist()


def test_a_centroid_without_rows_stays_and_copies_can_be_centroids() -> None:
    centroids = np.eye(2, 3, dtype=np.float32)
    assert (moved(centroids, np.array([[0, 0, 2.0], [0, 0, 0]]), np.array([1, 0])) == [[0, 0, 1], [0, 1, 0]]).all()
    assert (start(np.ones((5, 4), np.float32) / 2, 3) == 0.5).all()

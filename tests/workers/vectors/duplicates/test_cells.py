"""Cells: the sample does not depend on order or shards; k-means in two levels against k-means at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vector_snapshots import passes_over, publish_vectors
from workers.vectors.duplicates import cells
from workers.vectors.duplicates.cells import SampleTexts, find_cells


def test_the_sample_is_the_same_for_any_order_and_any_shards(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((600, 16)).astype(np.float32)
    texts = [f"text {row % 500}" for row in range(600)]
    vectors[500:] = vectors[:100]
    found = []
    for number, shards in enumerate((1, 4)):
        order = random.permutation(600) if number else np.arange(600)
        publish_vectors(tmp_path / str(shards), vectors[order], texts=[texts[row] for row in order], shards=shards)
        with passes_over(tmp_path / str(shards), ("text_hash",)) as passes:
            sample = passes.run(SampleTexts(0.5, ("text_hash",)))
        assert 200 < len(np.unique(sample["keys"])) < 300
        found.append(find_cells(sample, 8))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-6)


def test_two_levels_are_nearly_as_good_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    vectors = (
        random.standard_normal((60, 16))[random.integers(0, 60, 4000)] + random.standard_normal((4000, 16)) / 2
    ).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sample = {"keys": np.arange(4000, dtype=np.uint64), "vectors": vectors}
    at_once = find_cells(sample, 64)
    monkeypatch.setattr(cells, "FLAT", 16)
    in_levels = find_cells(sample, 64)
    assert 56 <= len(in_levels) <= 72
    loss = [1 - (vectors @ centroids.T).max(axis=1).mean() for centroids in (at_once, in_levels)]
    assert loss[1] < 1.1 * loss[0]
    counts = np.bincount((vectors @ in_levels.T).argmax(axis=1))
    assert counts.max() < 4000 / 64 * 4


def test_fewer_texts_than_cells() -> None:
    vectors = np.eye(3, 8, dtype=np.float32)
    assert find_cells({"keys": np.arange(3, dtype=np.uint64), "vectors": vectors}, 10).tolist() == vectors.tolist()

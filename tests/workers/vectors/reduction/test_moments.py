"""Principal directions against NumPy's SVD of all vectors at once, and against scikit-learn's PCA where they are centred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tests.vector_snapshots import passes_over, publish_vectors
from workers.vectors.reduction.moments import Captured, Moments, directions

ROWS, DIM = 3000, 32


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((ROWS, DIM)) @ random.standard_normal((DIM, DIM)) + random.standard_normal(DIM)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def output(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments") / "out"
    publish_vectors(folder, vectors, shards=5)
    return folder


def test_uncentred_directions_are_those_of_the_singular_vectors(output: Path, vectors: np.ndarray) -> None:
    with passes_over(output) as passes:
        found = directions(passes.run(Moments(unit=False)), centre=False)
    _, singular, right = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(found.values, singular**2 / ROWS, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.abs((found.vectors * right).sum(axis=1)), 1, atol=1e-6)
    assert found.enough(0.9) == int(np.searchsorted(np.cumsum(singular**2) / (singular**2).sum(), 0.9)) + 1


def test_centred_directions_are_those_of_scikit_learn(output: Path, vectors: np.ndarray) -> None:
    with passes_over(output) as passes:
        found = directions(passes.run(Moments(unit=False)), centre=True)
    peer = PCA(svd_solver="full").fit(vectors.astype(np.float64))
    np.testing.assert_allclose(found.values, peer.explained_variance_ * (ROWS - 1) / ROWS, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.mean, peer.mean_, atol=1e-9)
    assert found.energy(8) == pytest.approx(peer.explained_variance_ratio_[:8].sum(), abs=1e-9)


def test_captured_energy_of_some_shards(output: Path, vectors: np.ndarray) -> None:
    with passes_over(output) as passes:
        found = directions(passes.run(Moments(unit=False)), centre=False)
        kept = found.vectors[:8].astype(np.float32)
        step = Captured(kept, np.zeros(DIM, np.float32), unit=False)
        everything = passes.run(step)
        some = passes.run(step, passes.source.shards[:2])
    assert everything["kept"] / everything["energy"] == pytest.approx(found.energy(8), abs=1e-6)
    rows = vectors[: int(ROWS * 2 / 5)].astype(np.float64)
    assert some["kept"] / some["energy"] == pytest.approx(((rows @ kept.T) ** 2).sum() / (rows**2).sum(), abs=1e-6)

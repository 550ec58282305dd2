"""Figures from counts are scikit-learn's; bootstrap weights are Poisson's and belong to the key."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from workers.vectors.evaluation.classes.scoring import poisson_weights
from workers.vectors.evaluation.figures import ByClass, calibration_error


def test_by_class_and_on_average() -> None:
    draw = np.random.default_rng(0)
    given, said = draw.integers(0, 9, 500), draw.integers(1, 8, 500)  # 0 and 8 are never said, 9 is neither
    counts = [np.bincount(each, minlength=10) for each in (given[given == said], said, given)]
    figures = ByClass.of(*counts)
    precision, recall, f1, _ = precision_recall_fscore_support(given, said, labels=range(10), zero_division=0)
    np.testing.assert_allclose(figures.precision, precision, atol=1e-15)
    np.testing.assert_allclose(figures.recall, recall, atol=1e-15)
    np.testing.assert_allclose(figures.f1, f1, atol=1e-15)
    for name in ("macro", "micro", "weighted"):
        expected = f1_score(given, said, average=name, zero_division=0)
        assert getattr(figures, f"{name}_f1") == pytest.approx(expected, abs=1e-15)


def test_calibration_error() -> None:
    confident_and_wrong = np.array([[0.0, 10.0], [0.0, 9.0], [0.0, 5.0]])
    assert calibration_error(confident_and_wrong) == pytest.approx(0.4)


def test_bootstrap_weights() -> None:
    keys = np.random.default_rng(1).integers(0, 2**63, 20_000).astype(np.uint64)
    weights = poisson_weights(keys)
    assert weights.shape == (20_000, 100)
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.03
    np.testing.assert_array_equal(poisson_weights(keys[5:7]), weights[5:7])
    np.testing.assert_array_equal(poisson_weights(keys[:9], range(40, 60)), weights[:9, 40:60])

"""Correlations of cosines and scores by their definitions, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from workers.vectors.agreement.graded import correlations, most_different


def test_correlations_by_their_definitions() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 6, 200).astype(np.float64)
    cosines = scores / 6 + draw.standard_normal(200) * 0.3
    found = correlations(cosines, scores)

    def pearson(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one, other)[0, 1])

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])

    assert found["pearson"] == pytest.approx(pearson(cosines, scores), abs=1e-12)
    assert found["spearman"] == pytest.approx(pearson(ranks(cosines), ranks(scores)), abs=1e-12)


def test_pairs_that_differ_most() -> None:
    assert most_different(np.array([0.9, 0.1, 0.5, 0.6]), np.array([0.0, 1, 2, 3]), 2).tolist() == [0, 1]

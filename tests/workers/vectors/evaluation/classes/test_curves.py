"""AUC and average precision from histograms: scikit-learn's within the stated bound, whatever the edges are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from workers.vectors.evaluation.classes.curves import Curves, precision_recall_points, quantile_edges, roc_points


def _histograms(odds: np.ndarray, truth: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positives, negatives = [], []
    for label in range(odds.shape[1]):
        places = np.searchsorted(edges[label], odds[:, label], side="left")
        own = truth[:, label] > 0
        positives.append(np.bincount(places[own], minlength=edges.shape[1] + 1))
        negatives.append(np.bincount(places[~own], minlength=edges.shape[1] + 1))
    return np.array(positives), np.array(negatives)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 400),
    levels=st.sampled_from([2, 7, 50, 10**9]),
    scale=st.sampled_from([1e-3, 1.0, 50.0, 1e4]),
    bins=st.sampled_from([2, 3, 16, 256]),
    sample=st.floats(0.01, 1.0),
)
def test_the_bounds_hold(seed: int, rows: int, levels: int, scale: float, bins: int, sample: float) -> None:
    draw = np.random.default_rng(seed)
    truth = (draw.random((rows, 1)) < draw.random()).astype(np.uint8)
    truth[:2, 0] = 0, 1
    odds = (np.round((draw.standard_normal((rows, 1)) + truth) * levels) / levels * scale).astype(np.float32)
    chosen = draw.random(rows) < sample
    edges = quantile_edges(odds[chosen], truth[chosen], bins)
    assert (np.diff(edges[0]) >= 0).all()
    curves = Curves.of(*_histograms(odds, truth, edges))
    exact = roc_auc_score(truth[:, 0], odds[:, 0].astype(np.float64))
    assert abs(curves.auc[0] - exact) <= curves.auc_bound[0] + 1e-12
    precision = average_precision_score(truth[:, 0], odds[:, 0].astype(np.float64))
    assert abs(curves.average_precision[0] - precision) <= curves.average_precision_bound[0] + 1e-9


def test_over_confident_scores_are_ranked_well_where_equal_bins_of_probabilities_are_not() -> None:
    draw = np.random.default_rng(3)
    truth = (draw.random((40_000, 1)) < 0.02).astype(np.uint8)
    odds = (40 * (draw.standard_normal((40_000, 1)) + 1.2 * truth) - 60).astype(np.float32)
    exact = roc_auc_score(truth[:, 0], odds[:, 0])
    edges = quantile_edges(odds[::7], truth[::7])
    curves = Curves.of(*_histograms(odds, truth, edges))
    assert abs(curves.auc[0] - exact) < 1e-4
    assert curves.auc_bound[0] < 5e-4
    probabilities = (1 / (1 + np.exp(-odds.astype(np.float64)))).astype(np.float32)
    linear = np.linspace(0, 1, 201, dtype=np.float32)[None, 1:-1]
    usual = Curves.of(*_histograms(probabilities, truth, linear))
    assert abs(usual.auc[0] - exact) > 0.1
    assert abs(usual.auc[0] - exact) <= usual.auc_bound[0], "its own bound says so"


def test_a_rare_class_is_exact_if_the_sample_is_all_rows() -> None:
    draw = np.random.default_rng(5)
    truth = (np.arange(6000)[:, None] < 30).astype(np.uint8)
    odds = (draw.standard_normal((6000, 1)) + truth).astype(np.float32)
    curves = Curves.of(*_histograms(odds, truth, quantile_edges(odds, truth)))
    assert curves.auc[0] == pytest.approx(roc_auc_score(truth[:, 0], odds[:, 0]), abs=1e-12)
    assert curves.auc_bound[0] == 0
    assert curves.average_precision[0] == pytest.approx(average_precision_score(truth[:, 0], odds[:, 0]), abs=1e-12)


def test_a_class_without_positives_has_no_figure() -> None:
    curves = Curves.of(np.array([[0, 0, 0]]), np.array([[3, 2, 1]]))
    assert np.isnan(curves.auc[0])
    assert np.isnan(curves.average_precision[0])


@pytest.mark.parametrize("points", [5, 200])
def test_points_of_the_curves(points: int) -> None:
    positives, negatives = np.array([0, 1, 3, 6]), np.array([7, 2, 1, 0])
    x, y = roc_points(positives, negatives, points)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) <= points
    recall, precision = precision_recall_points(positives, negatives, points)
    assert (recall[0], precision[0]) == (0.6, 1.0)
    assert (recall[-1], precision[-1]) == (1.0, 0.5)

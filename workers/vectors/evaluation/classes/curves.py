"""ROC, AUC and average precision of one class against the rest, from histograms of log-odds, with bounds of their error.

    quantile_edges      where the bins end, from a sample
    Curves.of           histograms -> AUC, average precision, their bounds, points of both curves

Bins end at quantiles of log-odds, half of them at quantiles of the class's own rows: equally wide bins of the probability,
which streaming libraries use, put nearly all rows of an over-confident classifier into two of them (an AUC
wrong by up to 0.49).
Within a bin the order is unknown. A pair of a positive and a negative in one bin counts as a half, as a tie does, so the
AUC is wrong by at most half the share of such pairs, whatever the edges are. Axes: K classes, B edges, B + 1 bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 4096
Array = NDArray[np.float64]


def quantile_edges(odds: NDArray[np.float32], truth: NDArray[np.uint8], bins: int = BINS) -> NDArray[np.float32]:
    """[K, bins - 1] ascending, from log-odds [N, K] and truth [N, K] of a sample. A value equal to an edge lies below it."""
    edges = np.zeros((odds.shape[1], bins - 1), np.float32)
    for label in range(odds.shape[1]):
        own, all_rows = np.sort(odds[truth[:, label] > 0, label]), np.sort(odds[:, label])
        half = (bins - 1) // 2
        if 2 * len(own) <= half:  # a bin for each: the rows of a rare class decide by single ranks
            own = np.concatenate([own, np.nextafter(own, np.float32(-np.inf))])
        edges[label] = np.sort(np.concatenate([_spread(all_rows, bins - 1 - half), _spread(own, half)]))
    return edges


def _spread(ordered: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Values at equal steps through the ordered ones."""
    if not len(ordered):
        return np.zeros(count, np.float32)
    return np.asarray(ordered[((np.arange(count) + 0.5) * len(ordered) / count).astype(int)])


@dataclass(frozen=True)
class Curves:
    """Of each class; NaN where it has no positive or no negative row."""

    auc: Array  # [K]
    auc_bound: Array  # [K] the exact one is at most so far away
    average_precision: Array  # [K]
    average_precision_bound: Array  # [K]

    @classmethod
    def of(cls, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> Curves:
        """Histograms [K, B + 1], bins ascending."""
        p, n = positives.astype(np.float64), negatives.astype(np.float64)
        all_p, all_n = p.sum(axis=1), n.sum(axis=1)
        pairs = np.where(all_p * all_n > 0, all_p * all_n, np.nan)
        below = np.cumsum(n, axis=1) - n
        auc = (p * (below + n / 2)).sum(axis=1) / pairs
        bound = (p * n).sum(axis=1) / 2 / pairs
        precision, least, most = _average_precision(p, n)
        return cls(auc, bound, precision, np.maximum(precision - least, most - precision))


def _average_precision(p: Array, n: Array) -> tuple[Array, Array, Array]:
    """[K] each: with the rows of a bin tied, and the least and the most that an order within bins can give.

    The sum over positives of the precision at each, as scikit-learn's average_precision_score: rows of equal score count as
    one threshold. At the least all negatives of a bin come before its positives; no precision in a bin is above the one that
    all of its positives without its negatives have.
    """
    from scipy.special import digamma

    p, n = p[:, ::-1], n[:, ::-1]  # the highest log-odds first
    above_p, above_n = np.cumsum(p, axis=1) - p, np.cumsum(n, axis=1) - n
    wholes = p.sum(axis=1)
    whole = np.where((wholes > 0) & (n.sum(axis=1) > 0), wholes, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        tied = np.where(p > 0, p * (above_p + p) / (above_p + p + above_n + n), 0).sum(axis=1) / whole
        most = np.where(p > 0, p * (above_p + p) / (above_p + p + above_n), 0).sum(axis=1) / whole
        # sum over i = 1 .. p of (a + i) / (a + i + b) = p - b (digamma(a + b + p + 1) - digamma(a + b + 1))
        b = above_n + n
        rest = b * (digamma(above_p + b + p + 1) - digamma(above_p + b + 1))
        least = np.where(p > 0, p - rest, 0).sum(axis=1) / whole
    return tied, np.minimum(least, tied), np.maximum(most, tied)


def roc_points(positives: NDArray[np.int64], negatives: NDArray[np.int64], points: int) -> tuple[Array, Array]:
    """False and true positive rates of one class [<= points], from (0, 0) to (1, 1)."""
    p, n = _falling(positives), _falling(negatives)
    kept = _thinned(n / max(n[-1], 1), p / max(p[-1], 1), points)
    return n[kept] / max(n[-1], 1), p[kept] / max(p[-1], 1)


def precision_recall_points(positives: NDArray[np.int64], negatives: NDArray[np.int64], points: int) -> tuple[Array, Array]:
    """Recall and precision of one class [<= points], by falling threshold."""
    p, n = _falling(positives), _falling(negatives)
    there = np.flatnonzero(p + n > 0)
    recall, precision = p[there] / max(p[-1], 1), p[there] / (p[there] + n[there])
    kept = _thinned(recall, precision, points)
    return recall[kept], precision[kept]


def _falling(counts: NDArray[np.int64]) -> Array:
    return np.concatenate([[0.0], np.cumsum(counts[::-1].astype(np.float64))])


def _thinned(x: Array, y: Array, points: int) -> NDArray[np.int64]:
    """Places of so many points at equal steps along the curve, the first and last included."""
    if not len(x):
        return np.zeros(0, np.int64)
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.linspace(0, way[-1], points)
    return np.unique(np.concatenate([[0], np.searchsorted(way, wanted).clip(max=len(x) - 1), [len(x) - 1]]))

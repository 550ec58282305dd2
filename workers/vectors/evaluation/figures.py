"""Figures from counts: accuracy, precision, recall, F1 by class and on average, calibration error, bootstrap intervals.

As scikit-learn defines them (precision_recall_fscore_support, zero_division=0): macro averages run over classes that are
given or predicted in the rows at hand; micro F1 over all counts; weighted F1 by the rows of each class. Axes: K classes, and
any axes before it (replicates).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ByClass:
    """[..., K] of each class, and averages [...]."""

    precision: Array
    recall: Array
    f1: Array
    macro_f1: Array
    micro_f1: Array
    weighted_f1: Array

    @classmethod
    def of(cls, hits: NDArray[np.generic], predicted: NDArray[np.generic], actual: NDArray[np.generic]) -> ByClass:
        tp, said, given = (np.asarray(each, np.float64) for each in (hits, predicted, actual))
        f1 = _ratio(2 * tp, said + given)
        there = (said + given > 0).sum(axis=-1)
        return cls(
            _ratio(tp, said),
            _ratio(tp, given),
            f1,
            _ratio(f1.sum(axis=-1), there),
            _ratio(2 * tp.sum(axis=-1), said.sum(axis=-1) + given.sum(axis=-1)),
            _ratio((f1 * given).sum(axis=-1), given.sum(axis=-1)),
        )


def _ratio(above: Array, below: NDArray[np.generic]) -> Array:
    under = np.asarray(below, np.float64)
    return np.divide(above, under, out=np.zeros(np.broadcast(above, under).shape), where=under > 0)


def interval(replicates: Array) -> tuple[float, float]:
    """The middle 95% of bootstrap replicates [R]."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def calibration_error(reliability: Array) -> float:
    """Expected calibration error of [3, bins] rows, sums of confidence, correct ones: mean |accuracy - confidence|."""
    rows, confidence, correct = reliability
    return float(np.abs(confidence - correct).sum() / max(rows.sum(), 1))

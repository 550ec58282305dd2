"""V-measure of a clustering against classes, from their contingency table: it can be summed over shards.

Rosenberg and Hirschberg, "V-Measure: A conditional entropy-based external cluster evaluation measure", 2007. As
sklearn.metrics.homogeneity_completeness_v_measure with beta = 1: the harmonic mean of homogeneity (a cluster holds one
class) and completeness (a class lies in one cluster). Axes: L classes, K clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def v_measure(rows_LK: NDArray[np.int64]) -> dict[str, float]:
    """`v_measure`, `homogeneity` and `completeness`, 0 to 1. `rows_LK`: rows of each class in each cluster."""
    total = float(rows_LK.sum())
    if total == 0:
        return {"v_measure": 1.0, "homogeneity": 1.0, "completeness": 1.0}  # as scikit-learn has it
    shares = rows_LK / total
    of_class, of_cluster = shares.sum(axis=1), shares.sum(axis=0)
    label, cluster = np.nonzero(rows_LK)
    joint = shares[label, cluster]
    shared = float((joint * (np.log(joint) - np.log(of_class[label]) - np.log(of_cluster[cluster]))).sum())
    shared = max(shared, 0.0)  # rounding
    classes, clusters = _entropy(of_class), _entropy(of_cluster)
    homogeneity = shared / classes if classes > 0 else 1.0
    completeness = shared / clusters if clusters > 0 else 1.0
    both = homogeneity + completeness
    return {
        "v_measure": 2 * homogeneity * completeness / both if both > 0 else 0.0,
        "homogeneity": homogeneity,
        "completeness": completeness,
    }


def _entropy(shares: NDArray[np.float64]) -> float:
    """In nats."""
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum()) if len(present) > 1 else 0.0

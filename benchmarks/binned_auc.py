"""The error of AUC from bins, ours and others', against scikit-learn on the same log-odds.

    same_scores                            # for benchmarks/evaluate_classify.py
    PYTHON binned_auc.py SCORES.npz        # what it has another interpreter compute, which has torchmetrics and torcheval

Others are two formulas and two packages. Axes: N rows, K classes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLDS = 200  # the default of Keras and torcheval
SPARK_BINS = 1000  # the default of pyspark.ml's BinaryClassificationEvaluator
ENVIRONMENT = "vectors"
_ROUNDING = 1e-12  # of sums of float64
Rows = np.ndarray  # [N]


def same_scores(
    odds: np.ndarray, truth: np.ndarray, told: Sequence[Mapping[str, Any] | None], folder: Path
) -> dict[str, Any]:
    """Errors of the AUC of each class that has rows of its own and others.

    Args:
        odds, truth: [N, K] float32 and bool.
        told: [K] the job's figures of the class, with `auc` and `auc_bound`.
        folder: for what the other interpreter reads.
    """
    from sklearn.metrics import roc_auc_score

    there = [at for at, own in enumerate(truth.T) if 0 < own.sum() < len(own) and told[at] is not None]
    odds, truth = odds[:, there], truth[:, there]
    exact = np.array([roc_auc_score(own, column) for own, column in zip(truth.T, odds.T.astype(np.float64), strict=True)])
    auc, bound = (np.array([dict(told[at] or {})[name] for at in there]) for name in ("auc", "auc_bound"))
    errors = np.abs(auc - exact)
    others, left_out = _others(odds, truth, folder)
    return {
        "rows": len(odds),
        "classes": len(there),
        "auc": {
            "reembed, 4,096 bins of log-odds": _far(errors),
            **{name: _far(np.abs(np.array(values) - exact)) for name, values in others.items()},
        },
        "largest_bound": float(bound.max()),
        "bound_violations": int((errors > bound + _ROUNDING).sum()),
        **({"left_out": left_out} if left_out else {}),
    }


def _far(errors: np.ndarray) -> dict[str, float]:
    return {"worst": float(errors.max()), "mean": float(errors.mean()), "classes_above_1e-4": int((errors > 1e-4).sum())}


def _others(odds: np.ndarray, truth: np.ndarray, folder: Path) -> tuple[dict[str, list[float]], str | None]:
    """The AUC of each class by others, and why the packages were left out."""
    from benchmarks.contestants import environments

    found = {
        "Keras AUC, 200 thresholds (formula)": _each(keras_auc, probabilities(odds), truth),
        "Spark BinaryClassificationEvaluator, 1,000 bins of distinct scores (formula)": _each(spark_auc, odds, truth),
    }
    if reason := environments.missing(ENVIRONMENT):
        return found, reason
    np.savez(folder / "scores.npz", odds=odds, truth=truth)
    command = [str(environments.python_of(ENVIRONMENT)), __file__, str(folder / "scores.npz")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return found | json.loads(done.stdout.splitlines()[-1]), None


def probabilities(odds: np.ndarray) -> np.ndarray:
    """[N, K] float32, as a model gives them."""
    return (1 / (1 + np.exp(-np.clip(odds.astype(np.float64), -700, 700)))).astype(np.float32)


def keras_auc(chance: Rows, truth: Rows) -> float:
    """tf.keras.metrics.AUC: thresholds i / 199 but for the ends, positive above one, trapezoids between them."""
    inner = np.arange(1, THRESHOLDS - 1) / (THRESHOLDS - 1)
    thresholds = np.concatenate([[-1e-7], inner, [1 + 1e-7]]).astype(np.float32)
    positives, negatives = (
        len(some) - np.searchsorted(np.sort(some), thresholds, side="right") for some in (chance[truth], chance[~truth])
    )
    return _trapezoids(negatives[::-1], positives[::-1])


def spark_auc(odds: Rows, truth: Rows) -> float:
    """org.apache.spark.mllib BinaryClassificationMetrics: distinct scores, so many of them in one bin, trapezoids."""
    scores, places = np.unique(-odds, return_inverse=True)
    group = len(scores) // SPARK_BINS
    bins = places // group if group >= 2 else places
    positives, negatives = (np.bincount(bins[rows], minlength=int(bins.max()) + 1) for rows in (truth, ~truth))
    return _trapezoids(*(np.concatenate([[0], np.cumsum(count)]) for count in (negatives, positives)))


def _trapezoids(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Area under a curve of rising counts."""
    return float(np.trapezoid(positives / positives[-1], negatives / negatives[-1]))


def packages(odds: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """The AUC of each class by name and version of the package."""
    import torch
    from torcheval.metrics.functional import binary_binned_auroc
    from torchmetrics.functional.classification import binary_auroc

    def by_torchmetrics(chance: Rows, own: Rows) -> float:
        return float(binary_auroc(torch.from_numpy(chance), torch.from_numpy(own).int(), thresholds=THRESHOLDS))

    def by_torcheval(chance: Rows, own: Rows) -> float:
        return float(binary_binned_auroc(torch.from_numpy(chance), torch.from_numpy(own), threshold=THRESHOLDS)[0])

    chance = probabilities(odds)
    return {
        f"torchmetrics {version('torchmetrics')}, thresholds=200": _each(by_torchmetrics, chance, truth),
        f"torcheval {version('torcheval')}, threshold=200": _each(by_torcheval, chance, truth),
    }


def _each(auc: Callable[[Rows, Rows], float], scores: np.ndarray, truth: np.ndarray) -> list[float]:
    return [auc(np.ascontiguousarray(scores[:, at]), np.ascontiguousarray(truth[:, at])) for at in range(scores.shape[1])]


if __name__ == "__main__":
    with np.load(sys.argv[1]) as given:
        print(json.dumps(packages(given["odds"], given["truth"])))

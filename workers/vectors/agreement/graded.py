"""Cosines of pairs against the scores that people gave them: Spearman's and Pearson's correlation, by SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlations(cosines: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    """`spearman` (of ranks, ties averaged) and `pearson`. Both must vary; [N >= 2] each."""
    from scipy import stats  # takes 0.3 s

    return {
        "spearman": float(stats.spearmanr(cosines, scores).statistic),
        "pearson": float(stats.pearsonr(cosines, scores).statistic),
    }


def most_different(cosines: NDArray[np.float64], scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """[count] the pairs whose places in the two orders are furthest apart, furthest first."""
    from scipy import stats

    apart = np.abs(stats.rankdata(cosines) - stats.rankdata(scores))
    return np.argsort(-apart, kind="stable")[:count].astype(np.int64)

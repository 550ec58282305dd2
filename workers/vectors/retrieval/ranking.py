"""Measures of a ranking, as trec_eval defines them (github.com/usnistgov/trec_eval: m_ndcg_cut.c, m_recip_rank.c,
m_map_cut.c, m_recall.c), so that they equal pytrec_eval's.

    nDCG@10     sum of relevance / log2(rank + 1) over the first 10, divided by the best possible sum (linear gain)
    MRR@10      1 / rank of the first relevant text; 0 where none is among the first 10
    MAP@100     mean of the precisions at the ranks of relevant texts, over all relevant texts; the first 100 are looked at
    recall@k    share of the relevant texts among the first k

Relevant: relevance >= 1. Axes: Q queries, K ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUT = 10  # of nDCG and MRR
DEPTH = 100  # ranks that are looked at
RECALLS = (1, 10, 100)
MEASURES: tuple[str, ...] = ("ndcg@10", "mrr@10", "map@100", *(f"recall@{k}" for k in RECALLS))


def ranking_measures(
    gain_QK: NDArray[np.int64], relevant_Q: NDArray[np.int64], ideal_QC: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """[Q] each of MEASURES.

    Args:
        gain_QK: relevance of the text at each rank, 0 where it is not judged; at least DEPTH ranks or all there are.
        relevant_Q: relevant texts of each query, 1 at least.
        ideal_QC: the CUT largest relevances of each query, descending, filled with 0.
    """
    gain = np.maximum(gain_QK[:, :DEPTH], 0).astype(np.float64)
    hit = gain > 0
    discount = 1 / np.log2(np.arange(2, CUT + 2))
    gained = (gain[:, :CUT] * discount[: gain[:, :CUT].shape[1]]).sum(axis=1)
    possible = (np.maximum(ideal_QC, 0) * discount[: ideal_QC.shape[1]]).sum(axis=1)
    first = np.where(hit[:, :CUT].any(axis=1), 1 / (np.argmax(hit[:, :CUT], axis=1) + 1.0), 0.0)
    found = np.cumsum(hit, axis=1)
    precision = np.where(hit, found / np.arange(1, hit.shape[1] + 1), 0.0)
    measures = {
        "ndcg@10": gained / possible,
        "mrr@10": first,
        "map@100": precision.sum(axis=1) / relevant_Q,
    }
    for k in RECALLS:
        measures[f"recall@{k}"] = hit[:, :k].sum(axis=1) / relevant_Q
    return measures

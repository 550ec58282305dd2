"""Measures of a ranking against pytrec_eval, on drawn rankings and judgements."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.vectors.retrieval.ranking import CUT, DEPTH, MEASURES, ranking_measures

NAMES = {
    "ndcg@10": "ndcg_cut_10",
    "map@100": "map_cut_100",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), texts=st.integers(1, 150), graded=st.integers(1, 4), share=st.floats(0.01, 1))
def test_equal_to_pytrec_eval(seed: int, texts: int, graded: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    queries = 4
    relevance = draw.integers(-1, graded + 1, (queries, texts)) * (draw.random((queries, texts)) < share)
    relevance[:, 0] = 1  # a query without a relevant text is left out by the caller
    order = np.array([draw.permutation(texts) for _ in range(queries)])
    qrels = {str(q): {str(t): int(r) for t, r in enumerate(relevance[q])} for q in range(queries)}
    run = {str(q): {str(t): float(-rank) for rank, t in enumerate(order[q])} for q in range(queries)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.100", "recall.1,10,100"}).evaluate(run)
    first_ten = {q: dict(sorted(hits.items(), key=lambda hit: -hit[1])[:CUT]) for q, hits in run.items()}
    reciprocal = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(first_ten)

    gain = np.take_along_axis(relevance, order, axis=1)[:, :DEPTH]
    ideal = -np.sort(-np.maximum(relevance, 0), axis=1)[:, :CUT]
    ours = ranking_measures(gain, (relevance > 0).sum(axis=1), ideal)

    assert tuple(ours) == MEASURES
    for query in range(queries):
        for name, their_name in NAMES.items():
            assert ours[name][query] == pytest.approx(theirs[str(query)][their_name], abs=1e-9), name
        assert ours["mrr@10"][query] == pytest.approx(reciprocal[str(query)]["recip_rank"], abs=1e-9)

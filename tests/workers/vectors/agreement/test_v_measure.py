"""V-measure from a contingency table against scikit-learn's on the assignment itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import homogeneity_completeness_v_measure

from workers.vectors.agreement.v_measure import v_measure


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 300),
    classes=st.integers(1, 9),
    clusters=st.integers(1, 9),
    tie=st.booleans(),
)
def test_equal_to_scikit_learn(seed: int, rows: int, classes: int, clusters: int, tie: bool) -> None:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, rows)
    cluster = label % clusters if tie else draw.integers(0, clusters, rows)
    table = np.zeros((classes, clusters), np.int64)
    np.add.at(table, (label, cluster), 1)
    shards = table - table // 2, table // 2
    found = v_measure(shards[0] + shards[1])
    expected = homogeneity_completeness_v_measure(label, cluster)
    assert (found["homogeneity"], found["completeness"], found["v_measure"]) == pytest.approx(expected, abs=1e-9)

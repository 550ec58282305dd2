"""Batches partition the sequences, respect batch_tokens, and depend on the lengths alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.batches.plan import Layout, mixed_batches, plan_batches, positions


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(1, 3000), st.sampled_from(Layout))
def test_every_sequence_once_within_the_budget(values: list[int], budget: int, layout: Layout) -> None:
    lengths = np.array(values, np.int64)
    batches = plan_batches(lengths, budget, layout)
    assert sorted(np.concatenate([*batches, np.empty(0, np.int64)]).tolist()) == list(range(len(values)))
    for batch in batches:
        computed = lengths[batch].sum() if layout is Layout.PACKED else lengths[batch].max() * len(batch)
        assert positions(lengths[batch], layout) == computed
        assert len(batch) == 1 or computed <= budget
        assert layout is not Layout.EQUAL or len(set(lengths[batch].tolist())) == 1
        assert layout is not Layout.SINGLE or len(batch) == 1
    again = plan_batches(lengths.copy(), budget, layout)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_one_length_a_batch_and_as_many_as_fit() -> None:
    lengths = np.array([10, 500, 10, 500, 10, 10])
    assert [batch.tolist() for batch in plan_batches(lengths, 1000, Layout.EQUAL)] == [[1, 3], [0, 2, 4, 5]]
    assert [batch.tolist() for batch in plan_batches(lengths, 30, Layout.EQUAL)] == [[1], [3], [0, 2, 4], [5]]


def test_mixed_batches_have_long_ones_beside_short_ones() -> None:
    lengths = np.array([1, 100, 2, 90, 3, 80, 4])
    assert [lengths[batch].tolist() for batch in mixed_batches(lengths, 4)] == [[100, 80, 3, 1], [90, 4, 2]]
    assert mixed_batches(np.empty(0, np.int64), 4) == []


def test_neighbours_in_length_share_a_batch() -> None:
    lengths = np.array([10, 500, 10, 500, 10, 10])
    assert [batch.tolist() for batch in plan_batches(lengths, 1000, Layout.PADDED)] == [[1, 3], [0, 2, 4, 5]]


def test_without_padding_lengths_may_mix() -> None:
    lengths = np.array([10, 500, 10, 480, 10, 10])
    assert [batch.tolist() for batch in plan_batches(lengths, 1000, Layout.PACKED)] == [[1, 3, 0, 2], [4, 5]]


def test_a_batch_is_filled_before_the_next_begins() -> None:
    assert [len(batch) for batch in plan_batches(np.full(10, 25), 100, Layout.PADDED)] == [4, 4, 2]


def test_ties_keep_their_order() -> None:
    lengths = np.random.default_rng(2).integers(5, 8, 2000)
    order = np.concatenate(plan_batches(lengths, 64, Layout.PACKED))
    assert order.tolist() == sorted(range(2000), key=lambda index: -lengths[index])


def test_longer_than_the_budget_stands_alone() -> None:
    assert [batch.tolist() for batch in plan_batches(np.array([3, 900, 3]), 100, Layout.PACKED)] == [[1], [0, 2]]


def test_padding_is_small_on_real_lengths() -> None:
    lengths = np.random.default_rng(1).lognormal(4.3, 0.6, 8192).astype(np.int64).clip(2, 256)
    batches = plan_batches(lengths, 4096, Layout.PADDED)
    assert sum(positions(lengths[batch], Layout.PADDED) for batch in batches) / lengths.sum() < 1.02


def test_a_budget_of_nothing() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        plan_batches(np.array([1]), 0, Layout.PACKED)

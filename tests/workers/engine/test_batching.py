"""Batches partition the sequences, respect batch_tokens, and depend on the lengths alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.batching import plan_batches, positions


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 3000), st.booleans())
def test_every_sequence_once_within_the_budget(values: list[int], budget: int, packed: bool) -> None:
    lengths = np.array(values, np.int64)
    batches = plan_batches(lengths, budget, packed=packed)
    assert sorted(np.concatenate([*batches, np.empty(0, np.int64)]).tolist()) == list(range(len(values)))
    for batch in batches:
        computed = lengths[batch].sum() if packed else lengths[batch].max() * len(batch)
        assert positions(lengths[batch], packed=packed) == computed
        assert len(batch) == 1 or computed <= budget
    again = plan_batches(lengths.copy(), budget, packed=packed)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_neighbours_in_length_share_a_batch() -> None:
    lengths = np.array([10, 500, 10, 500, 10, 10])
    assert [batch.tolist() for batch in plan_batches(lengths, 1000, packed=False)] == [[1, 3], [0, 2, 4, 5]]


def test_without_padding_lengths_may_mix() -> None:
    lengths = np.array([10, 500, 10, 480, 10, 10])
    assert [batch.tolist() for batch in plan_batches(lengths, 1000, packed=True)] == [[1, 3, 0, 2], [4, 5]]


def test_a_batch_is_filled_before_the_next_begins() -> None:
    assert [len(batch) for batch in plan_batches(np.full(10, 25), 100, packed=False)] == [4, 4, 2]


def test_ties_keep_their_order() -> None:
    lengths = np.random.default_rng(2).integers(5, 8, 2000)
    order = np.concatenate(plan_batches(lengths, 64, packed=True))
    assert order.tolist() == sorted(range(2000), key=lambda index: -lengths[index])


def test_longer_than_the_budget_stands_alone() -> None:
    assert [batch.tolist() for batch in plan_batches(np.array([3, 900, 3]), 100, packed=True)] == [[1], [0, 2]]


def test_padding_is_small_on_real_lengths() -> None:
    lengths = np.random.default_rng(1).lognormal(4.3, 0.6, 8192).astype(np.int64).clip(2, 256)
    batches = plan_batches(lengths, 4096, packed=False)
    assert sum(positions(lengths[batch], packed=False) for batch in batches) / lengths.sum() < 1.02


def test_a_budget_of_nothing() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        plan_batches(np.array([1]), 0, packed=True)

"""A packed batch: the chosen sequences' tokens concatenated, and its blocks and runs, which cover every token once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.workers.families import of_lengths
from workers.engine.kernels.packing import BLOCK_MULTIPLE, BLOCK_SCORES, PackedBatch, pack

CPU = torch.device("cpu")
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 700)), min_size=1, max_size=60)
ORDERS = st.sampled_from(["descending", "as drawn"])


def packed_in(lengths: list[int], order: str = "as drawn") -> PackedBatch:
    if order == "descending":
        lengths = sorted(lengths, reverse=True)
    return pack(of_lengths(np.array(lengths, np.int64)), np.arange(len(lengths)), CPU)


def test_the_rows_asked_for_end_to_end() -> None:
    tokens, rows = of_lengths(np.array([3, 1, 4, 1, 5])), np.array([4, 0, 2, 0])
    batch = pack(tokens, rows, CPU)
    naive = [tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() for row in rows]
    assert batch.ids_T.tolist() == [token for sequence in naive for token in sequence]
    assert batch.positions_T.tolist() == [*range(5), *range(3), *range(4), *range(3)]
    assert batch.ids_T.dtype == batch.positions_T.dtype == torch.int64
    assert batch.cumulative_B1.tolist() == batch.offsets_B1.tolist() == [0, 5, 8, 12, 15]
    assert batch.cumulative_B1.dtype == torch.int32
    assert (batch.tokens, batch.longest, batch.lengths_B.tolist()) == (15, 5, [5, 3, 4, 3])


def test_runs_are_neighbours_of_equal_length() -> None:
    runs = packed_in([7, 7, 7, 3, 2, 2, 7]).runs
    assert [(run.start, run.stop, run.count, run.length) for run in runs] == [
        (0, 21, 3, 7), (21, 24, 1, 3), (24, 28, 2, 2), (28, 35, 1, 7),
    ]  # fmt: skip


@given(LENGTHS, ORDERS)
@settings(max_examples=60, deadline=None)
def test_runs_cover_every_token_once(lengths: list[int], order: str) -> None:
    batch = packed_in(lengths, order)
    at, back = 0, []
    for run in batch.runs:
        assert (run.start, run.stop) == (at, at + run.count * run.length)
        back += [run.length] * run.count
        at = run.stop
    assert at == batch.tokens
    assert back == batch.lengths_B.tolist()
    assert all(one.length != other.length for one, other in zip(batch.runs[:-1], batch.runs[1:], strict=True))


@given(LENGTHS, ORDERS)
@example([16, 16, 8], "descending")
@example([600, 1, 600], "as drawn")
@settings(max_examples=100, deadline=None)
def test_blocks_cover_every_token_once(lengths: list[int], order: str) -> None:
    batch = packed_in(lengths, order)
    at, first = 0, 0
    for block in batch.blocks:
        assert block.start == at
        of_block = batch.lengths_B[first : first + block.count]
        assert block.stop - block.start == of_block.sum()
        assert block.length % BLOCK_MULTIPLE == 0
        assert of_block.max() <= block.length < of_block.max() + BLOCK_MULTIPLE
        naive = [row * block.length + place for row, length in enumerate(of_block) for place in range(length)]
        real = block.real.flatten().tolist()
        assert [place for place, one in enumerate(real) if one] == naive
        assert set(real) <= {0.0, 1.0}
        if block.slots is None:
            assert len(naive) == block.count * block.length
        else:
            assert block.slots.tolist() == naive
        assert block.sources[naive].tolist() == list(range(block.stop - block.start))
        assert block.sources.shape == (block.count * block.length,)
        assert 0 <= int(block.sources.min()) <= int(block.sources.max()) < block.stop - block.start
        at, first = block.stop, first + block.count
    assert (at, first) == (batch.tokens, len(lengths))


@given(LENGTHS, ORDERS)
@settings(max_examples=60, deadline=None)
def test_blocks_stay_small_and_full(lengths: list[int], order: str) -> None:
    for block in packed_in(lengths, order).blocks:
        if block.count > 1:
            assert block.count * block.length**2 <= BLOCK_SCORES
            assert (block.stop - block.start) * 8 >= block.count * block.length * 7


@pytest.mark.parametrize(("lengths", "counts"), [([64] * 10, [10]), ([64] * 65, [64, 1]), ([80, 79, 40], [2, 1])])
def test_blocks_gather_what_fits(lengths: list[int], counts: list[int]) -> None:
    assert [block.count for block in packed_in(lengths).blocks] == counts


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(0, 3))
def test_positions_without_the_padding_token(sequences: list[list[int]], padding: int) -> None:
    """As RoBERTa numbers each sequence alone: from padding + 1 on, and the padding token itself is at `padding`."""
    tokens = of_lengths(np.array([len(sequence) for sequence in sequences]))
    tokens.input_ids[:] = [token for sequence in sequences for token in sequence]
    batch = pack(tokens, np.arange(len(sequences)), CPU)
    expected = []
    for sequence in sequences:
        counted = torch.tensor(sequence).ne(padding).int()
        expected += (torch.cumsum(counted, 0) * counted + padding).tolist()
    assert (batch.positions_without(padding) + padding + 1).tolist() == expected

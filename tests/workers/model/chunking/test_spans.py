"""Spans of tokens and windows over them: against loops, and rules that hold for any document."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.model.chunking.borders import Cuts
from workers.model.chunking.spans import Spans, by_cuts, by_tokens, joined, pooled_tokens, windows

NONE = np.empty(0, np.int64)


def listed(spans: Spans) -> list[tuple[int, int, int]]:
    rows = zip(spans.document.tolist(), spans.start.tolist(), (spans.start + spans.length).tolist(), strict=True)
    return list(rows)


def cut(
    length: int, *levels: list[int], sections: list[int] | None = None, size: int, overlap: int = 0
) -> list[tuple[int, int]]:
    """Of a text of one-character tokens."""
    cuts = Cuts(np.array(sections or [], np.int64), tuple(np.array(level, np.int64) for level in levels))
    return by_cuts(np.arange(1, length + 1), cuts, 0, size, overlap)


def test_chunks_of_equal_size() -> None:
    lengths, size, step = np.array([0, 5, 6, 11]), np.full(4, 5), np.array([5, 5, 5, 3])
    expected = [
        (0, 0, 0), (1, 0, 5), (2, 0, 5), (2, 5, 6), (3, 0, 5), (3, 3, 8), (3, 6, 11),
    ]  # fmt: skip
    assert listed(by_tokens(lengths, size, step)) == expected


def test_as_long_as_allowed_and_ending_at_a_border() -> None:
    assert cut(20, [4, 9, 12, 15], size=10) == [(0, 9), (9, 15), (15, 20)]
    assert cut(20, [4, 9, 12, 15], size=3) == [(0, 3), (3, 4), (4, 7), (7, 9), (9, 12), (12, 15), (15, 18), (18, 20)]
    assert cut(0, [], size=4) == [(0, 0)]
    assert cut(4, [2], size=4) == [(0, 4)]


def test_the_best_border_in_reach() -> None:
    assert cut(30, [10, 25], [3, 7, 10, 14, 19, 25, 28], size=12) == [(0, 10), (10, 19), (19, 30)]


def test_sections_are_never_joined() -> None:
    assert cut(20, [4, 9, 15], sections=[2, 9], size=10) == [(0, 2), (2, 9), (9, 15), (15, 20)]
    assert cut(20, [4, 9, 15], sections=[2, 9], size=10, overlap=9) == [(0, 2), (2, 9), (9, 15), (15, 20)]


def test_overlap_repeats_whole_pieces_that_leave_room() -> None:
    assert cut(20, [3, 6, 9, 12, 15, 18], size=9, overlap=3) == [(0, 9), (6, 15), (12, 20)]
    assert cut(20, [3, 6, 9, 12, 15, 18], size=9, overlap=2) == [(0, 9), (9, 18), (18, 20)]
    # the piece 6 to 9 is not repeated: 9 to 17 would not fit behind it
    assert cut(20, [6, 9, 17], size=9, overlap=4) == [(0, 9), (9, 17), (17, 20)]
    # within a long piece the last tokens are repeated
    assert cut(20, [], size=8, overlap=2) == [(0, 8), (6, 14), (12, 20)]


@given(
    length=st.integers(0, 60),
    sections=st.lists(st.integers(0, 60), max_size=4),
    coarse=st.lists(st.integers(0, 60), max_size=6),
    fine=st.lists(st.integers(0, 60), max_size=12),
    size=st.integers(2, 20),
    overlap=st.integers(0, 19),
)
def test_every_token_is_in_a_chunk(
    length: int, sections: list[int], coarse: list[int], fine: list[int], size: int, overlap: int
) -> None:
    overlap = min(overlap, size - 1)
    borders = [sorted(set(places)) for places in (sections, coarse, fine)]
    chunks = cut(length, borders[1], borders[2], sections=borders[0], size=size, overlap=overlap)
    assert chunks[0][0] == 0
    assert chunks[-1][1] == length
    for (start, end), (after, behind) in pairwise(chunks):
        assert start < after <= end < behind, "a gap, or a chunk that adds nothing"
        assert end - after <= max(overlap, 0)
        assert after == end or overlap
    assert all(end - start <= size for start, end in chunks)
    for place in borders[0]:
        assert not any(start < place < end for start, end in chunks)
    assert joined([chunks]).length.sum() == sum(end - start for start, end in chunks)


def test_a_border_inside_a_token_falls_before_it() -> None:
    ends = np.array([2, 2, 7, 9])  # the second token is part of the first one's character, the third begins at 2
    cuts = Cuts(NONE, (np.array([2, 5, 9]),))
    assert by_cuts(ends, cuts, 0, 2, 0) == [(0, 2), (2, 4)]
    assert by_cuts(ends + 10, cuts, 10, 2, 0) == [(0, 2), (2, 4)]


def test_windows_of_a_long_document() -> None:
    """Room for 10, chunks of 4, 3 of overlap: 0 to 10 has two whole chunks, 5 to 15 one more, 9 to 19 the next, ..."""
    chunks = by_tokens(np.array([10, 22, 0]), np.full(3, 4), np.full(3, 4))
    found, sequence = windows(chunks, np.array([10, 22, 0]), np.full(3, 10), np.full(3, 3))
    assert listed(found) == [(0, 0, 10), (1, 0, 10), (1, 5, 15), (1, 9, 19), (1, 13, 22), (2, 0, 0)]
    assert sequence.tolist() == [0, 0, 0, 1, 1, 2, 3, 4, 4, 5]
    pooled = pooled_tokens(chunks, found, sequence, np.array([0, 2, 0]), before=1, behind=1)
    assert list(zip(pooled.first.tolist(), pooled.end.tolist(), strict=True)) == [
        (0, 5), (5, 9), (9, 12),  # [CLS] and the first four; four; the last two and [SEP]
        (0, 7), (7, 11),  # [CLS], two of the prompt and four; four
        (6, 10), (6, 10), (6, 10), (10, 13),  # behind [CLS], prompt and overlap; at last [SEP]
        (0, 2),
    ]  # fmt: skip


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=5),
    size=st.integers(1, 12),
    overlap=st.integers(0, 8),
    more=st.integers(0, 9),
)
def test_each_chunk_is_whole_in_its_window(lengths: list[int], size: int, overlap: int, more: int) -> None:
    room, many = size + overlap + more, len(lengths)
    length_D = np.array(lengths)
    chunks = by_tokens(length_D, np.full(many, size), np.full(many, size))
    found, sequence = windows(chunks, length_D, np.full(many, room), np.full(many, overlap))
    assert (found.length <= room).all()
    assert np.array_equal(np.unique(sequence), np.arange(len(found.start))), "a window without a chunk"
    assert np.array_equal(found.document[sequence], chunks.document)
    start, end = found.start[sequence], (found.start + found.length)[sequence]
    assert (start <= chunks.start).all()
    assert (chunks.start + chunks.length <= end).all()
    before = chunks.start - start  # what the model sees before a chunk: all, or the overlap at least
    assert (np.minimum(chunks.start, overlap) <= before).all()


def test_a_chunk_without_room_is_told() -> None:
    chunks = joined([[(0, 12), (12, 20)]])
    with pytest.raises(ValueError, match="longer than a window"):
        windows(chunks, np.array([20]), np.array([10]), np.array([0]))

"""Which text and which output row a vector belongs to, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges, rows_of_texts, text_of_rows, text_of_vectors

CHUNKS = st.lists(st.integers(0, 4), max_size=8)  # sequences of each document


def _tokens(chunks: list[int]) -> TokenizedTexts:
    document = [number for number, count in enumerate(chunks) for _ in range(count)]
    zeros = np.zeros(len(chunks), np.int32)
    return TokenizedTexts(
        input_ids=np.zeros(len(document), np.int32),
        offsets=np.arange(len(document) + 1, dtype=np.int64),
        document=np.array(document, np.int32),
        chunk_start=None,
        chunk_end=None,
        truncated=zeros.astype(np.bool_),
        num_tokens=zeros,
        prompt_tokens=0,
    )


@given(CHUNKS)
def test_rows_and_texts(chunks: list[int]) -> None:
    tokens = _tokens(chunks)
    assert text_of_rows(tokens, chunked=False).tolist() == list(range(len(chunks)))
    assert text_of_rows(tokens, chunked=True).tolist() == [at for at, count in enumerate(chunks) for _ in range(count)]
    assert rows_of_texts(tokens, chunked=False).tolist() == [1] * len(chunks)
    assert rows_of_texts(tokens, chunked=True).tolist() == chunks


@given(CHUNKS, st.data())
def test_each_vector_of_a_row_belongs_to_its_text(chunks: list[int], data: st.DataObject) -> None:
    tokens = _tokens(chunks)
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(chunks), max_size=len(chunks)))
    offsets = np.cumsum([0, *counts])
    encoded = EncodedTexts(np.zeros((int(offsets[-1]), 2), np.float32), offsets.astype(np.int64), 0)
    expected = [at for at, count in enumerate(counts) for _ in range(count)]
    assert text_of_vectors(tokens, encoded, chunked=False).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=8))
def test_ranges_are_those_of_python(pairs: list[tuple[int, int]]) -> None:
    starts, lengths = np.array([pair[0] for pair in pairs], np.int64), np.array([pair[1] for pair in pairs], np.int64)
    expected = [index for start, length in pairs for index in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == expected


def test_lengths_of_sequences() -> None:
    assert _tokens([2, 0, 1]).lengths.tolist() == [1, 1, 1]
    with pytest.raises(AttributeError):
        _tokens([1]).prompt_tokens = 3  # type: ignore[misc]

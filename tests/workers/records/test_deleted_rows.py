"""Deleted rows as texts: any set comes back, and a run of rows holds those that lie in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.records.deleted_rows import decode_rows, deleted_count, encode_rows, rows_between


@given(st.sets(st.integers(0, 10_000)), st.integers(0, 10_000), st.integers(0, 10_000))
def test_any_set_of_rows_comes_back(rows: set[int], first: int, count: int) -> None:
    text = encode_rows(np.array(list(rows), np.int64))
    assert decode_rows(text).tolist() == sorted(rows)
    assert deleted_count(text) == len(rows)
    assert rows_between(text, first, first + count) == encode_rows(row for row in rows if first <= row < first + count)


def test_none_is_no_text_and_many_are_small() -> None:
    assert encode_rows([]) == ""
    assert rows_between("", 0, 9) == ""
    assert len(encode_rows(np.arange(0, 1_000_000, 2))) < 8_000
    drawn = np.random.default_rng(1).choice(1_000_000, 50_000, replace=False)
    assert len(encode_rows(drawn)) < 1.7 * 50_000


def test_what_is_no_such_text_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        deleted_count("x")

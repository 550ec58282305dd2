"""Beginnings of texts: characters, not bytes, in lists and in Arrow columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from workers.model.text_pieces import beginnings_of

TEXTS = ["", "short", "日本語の文章", "🙂" * 9, "exactly!", "e\u0301" * 5]


@pytest.mark.parametrize("size", [0, 1, 5, 8, 100])
def test_beginnings(size: int) -> None:
    expected = [text[:size] for text in TEXTS]
    for texts in (TEXTS, pa.array(TEXTS), pa.chunked_array([TEXTS[:2], TEXTS[2:]]), pa.array(TEXTS, pa.large_string())):
        found, cut = beginnings_of(texts, size)
        assert (list(found) if isinstance(found, list) else found.to_pylist()) == expected
        assert (cut is not None) == any(len(text) > size for text in TEXTS)
        if cut is not None:
            assert cut.tolist() == [len(text) > size for text in TEXTS]
    assert beginnings_of(pa.chunked_array([], pa.string()), 3)[1] is None

"""Windows, tokens and vectors meet: each document keeps its own vector, bad ones are quarantined whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import DIM, plan, schema, unit_vectors
from workers.config import LongText, Pooling
from workers.documents import DocumentWindow, RowsDigest, text_hash
from workers.rows import finished_rows
from workers.token_records import EncodedTexts, TokenizedTexts

TEXTS = ["alpha", "beta beta", "gamma"]


def window(texts: Sequence[str] = TEXTS) -> DocumentWindow:
    keep = {"lang": pa.string()}
    columns: dict[str, Any] = {
        "id": [f"doc-{n}" for n in range(len(texts))],
        "text": list(texts),
        "object": pa.array(["s3://b/o"] * len(texts), pa.dictionary(pa.int32(), pa.string())),
        "row": list(range(10, 10 + len(texts))),
        "keep.lang": [f"l{n}" for n in range(len(texts))],
    }
    return DocumentWindow(0, pa.table(columns, schema=plan(keep).schema), rows_read=len(texts) + 1)


def tokens(sequences_of_document: Sequence[int], length: int = 4) -> TokenizedTexts:
    """Every sequence has `length` tokens; ids count up."""
    document = np.repeat(np.arange(len(sequences_of_document), dtype=np.int32), sequences_of_document)
    count = len(document)
    start = np.arange(count, dtype=np.int64)
    return TokenizedTexts(
        input_ids=np.arange(count * length, dtype=np.int32),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        document=document,
        chunk_start=start,
        chunk_end=start + 5,
        truncated=np.array([n == 1 for n in range(len(sequences_of_document))]),
        num_tokens=np.array(sequences_of_document, np.int32) * length,
        prompt_tokens=0,
    )


def strings(ids: Sequence[int]) -> list[str]:
    return [f"t{number}" for number in ids]


def stored(table: pa.Table) -> np.ndarray:
    return np.array(table.column("embedding").to_pylist(), dtype=np.float32)


def test_one_row_a_document_with_its_own_vector() -> None:
    shape, vectors = schema({"lang": pa.string()}), unit_vectors(3)
    done = finished_rows(window(), tokens([1, 1, 1]), EncodedTexts(vectors, None, 20), shape, strings)
    assert done.table.schema.equals(shape.rows)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-1", "doc-2"]
    assert done.table.column("lang").to_pylist() == ["l0", "l1", "l2"]
    assert done.table.column("truncated").to_pylist() == [False, True, False]
    assert done.table.column("text_hash").to_pylist() == [text_hash(text) for text in TEXTS]
    assert np.array_equal(stored(done.table), vectors)
    assert (done.documents, done.rows_read, done.tokens, done.padded_tokens, done.truncated) == (3, 4, 12, 20, 1)
    digest = RowsDigest()
    for number in (2, 0, 1):  # any order
        digest.add(f"doc-{number}", text_hash(TEXTS[number]))
    assert str(done.source_digest) == str(digest)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN"), (np.inf, "Inf"), (0.0, "all zeros")])
def test_a_bad_vector_is_quarantined_with_its_place(value: float, reason: str) -> None:
    vectors = unit_vectors(3)
    vectors[1] = value
    shape = schema({"lang": pa.string()})
    done = finished_rows(window(), tokens([1, 1, 1]), EncodedTexts(vectors, None, 12), shape, strings)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2"]
    assert np.array_equal(stored(done.table), vectors[[0, 2]])
    (row,) = done.quarantined
    assert (row.object, row.row, row.id, row.rows) == ("s3://b/o", 11, "doc-1", 1)
    assert reason in row.reason
    assert (done.documents, done.truncated) == (2, 0)


def test_chunks_are_rows_and_one_bad_chunk_takes_its_document() -> None:
    shape = schema({"lang": pa.string()}, long_text=LongText.CHUNKS)
    vectors = unit_vectors(6)
    vectors[3] = np.nan  # the last of doc-1's three chunks
    done = finished_rows(window(), tokens([1, 3, 2]), EncodedTexts(vectors, None, 24), shape, strings)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2", "doc-2"]
    assert done.table.column("chunk").to_pylist() == [0, 0, 1]
    assert done.table.column("chunk_start").to_pylist() == [0, 4, 5]
    assert done.table.column("num_tokens").to_pylist() == [4, 4, 4]
    assert np.array_equal(stored(done.table), vectors[[0, 4, 5]])
    assert (done.documents, len(done.quarantined)) == (2, 1)


def test_tokens_keep_a_vector_and_a_string_each() -> None:
    shape = schema({"lang": pa.string()}, pooling=Pooling.TOKENS)
    ragged = tokens([1, 1, 1])
    vectors = unit_vectors(12)
    vectors[5] = 0.0  # a token of doc-1
    done = finished_rows(window(), ragged, EncodedTexts(vectors, ragged.offsets, 12), shape, strings)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2"]
    assert done.table.column("tokens").to_pylist() == [["t0", "t1", "t2", "t3"], ["t8", "t9", "t10", "t11"]]
    assert np.array_equal(stored(done.table).reshape(-1, DIM), vectors[[0, 1, 2, 3, 8, 9, 10, 11]])


def test_an_empty_window_passes_its_quarantine_on() -> None:
    empty = DocumentWindow(0, plan({"lang": pa.string()}).schema.empty_table(), rows_read=5)
    nothing = tokens([])
    done = finished_rows(
        empty, nothing, EncodedTexts(np.empty((0, DIM), np.float32), None, 0), schema({"lang": pa.string()}), strings
    )
    assert (done.table.num_rows, done.documents, done.rows_read) == (0, 0, 5)

"""Windows, tokens and vectors meet: each document keeps its own vector, bad ones are quarantined whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import DIM, INT8_SCALE, plan, schema, unit_vectors
from workers.config import LongText, Pooling, VectorType
from workers.dedup.deduplicator import Deduplicator
from workers.dedup.vector_cache import CachedRows
from workers.records.documents import DocumentWindow, RowsDigest, text_hash
from workers.records.tokens import EncodedTexts, TokenizedTexts, rows_of_texts
from workers.table.schema import OutputSchema
from workers.writing.assembly import assemble, cache_ranges, output_rows
from workers.writing.rows import DocumentRows, TextRows, document_rows, text_rows

TEXTS = ["alpha", "beta beta", "gamma"]
LANG = {"lang": pa.string()}


def window(texts: Sequence[str] = TEXTS) -> DocumentWindow:
    columns: dict[str, Any] = {
        "id": [f"doc-{n}" for n in range(len(texts))],
        "text": list(texts),
        "object": pa.array(["s3://b/o"] * len(texts), pa.dictionary(pa.int32(), pa.string())),
        "row": list(range(10, 10 + len(texts))),
        "keep.lang": [f"l{n}" for n in range(len(texts))],
    }
    return DocumentWindow(0, pa.table(columns, schema=plan(LANG).schema), rows_read=len(texts) + 1)


@dataclass
class Done:
    texts: TextRows
    documents: DocumentRows
    table: pa.Table  # as a part would hold it


def finished(found: DocumentWindow, spoken: TokenizedTexts, encoded: EncodedTexts, shape: OutputSchema) -> Done:
    """One window, the first of its shard."""
    deduplicator = Deduplicator()
    deduped = deduplicator.deduplicate(found)
    deduplicator.assign_rows(deduped, rows_of_texts(spoken, shape.chunked))
    texts = text_rows(spoken, encoded, len(deduped.new), shape, strings)
    bad = {int(deduped.row_D[deduped.new[text]]): reason for text, reason in texts.bad.items()}
    rows = document_rows(deduped, bad, shape)
    batches, table = rows.table.to_batches(), shape.rows.empty_table()
    if batches:
        joined = output_rows(cache_ranges(batches), np.arange(rows.table.num_rows))
        table = assemble(batches, CachedRows(texts.table.to_batches()), joined, shape.rows)
    assert table.num_rows == rows.rows
    return Done(texts, rows, table)


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
    shape, vectors = schema(LANG), unit_vectors(3)
    done = finished(window(), tokens([1, 1, 1]), EncodedTexts(vectors, None, 20), shape)
    assert done.table.schema.equals(shape.rows)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-1", "doc-2"]
    assert done.table.column("lang").to_pylist() == ["l0", "l1", "l2"]
    assert done.table.column("num_tokens").to_pylist() == [4, 4, 4]
    assert done.table.column("truncated").to_pylist() == [False, True, False]
    assert done.table.column("text_hash").to_pylist() == [text_hash(text) for text in TEXTS]
    assert np.array_equal(stored(done.table), vectors)
    digest = RowsDigest()
    for number in (2, 0, 1):  # any order
        digest.add(f"doc-{number}", text_hash(TEXTS[number]))
    assert str(done.documents.source_digest) == str(digest)


def test_documents_of_one_text_share_a_vector() -> None:
    texts, vectors = ["a", "b", "a", "c", "b", "a"], unit_vectors(3)
    done = finished(window(texts), tokens([1, 1, 1]), EncodedTexts(vectors, None, 12), schema(LANG))
    assert np.array_equal(stored(done.table), vectors[[0, 1, 0, 2, 1, 0]])
    assert done.table.column("lang").to_pylist() == [f"l{n}" for n in range(6)]
    assert done.table.column("truncated").to_pylist() == [False, True, False, False, True, False]
    assert (done.documents.rows, done.documents.repeated_rows, done.documents.reused_rows) == (6, 3, 0)
    assert done.texts.table.num_rows == 3


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN"), (np.inf, "Inf"), (0.0, "all zeros")])
@pytest.mark.parametrize("vector", list(VectorType))
def test_a_bad_vector_is_quarantined_with_its_place(value: float, reason: str, vector: VectorType) -> None:
    vectors = unit_vectors(3)
    vectors[1] = value
    shape = schema(LANG, vector=vector, int8_scale=INT8_SCALE if vector is VectorType.INT8 else None)
    texts = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[1]]
    done = finished(window(texts), tokens([1, 1, 1]), EncodedTexts(vectors, None, 12), shape)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2"]
    assert done.table.column("truncated").to_pylist() == [False, False]
    assert [(row.object, row.row, row.id, row.rows) for row in done.documents.quarantined] == [
        ("s3://b/o", 11, "doc-1", 1), ("s3://b/o", 13, "doc-3", 1)
    ]  # fmt: skip
    assert all(reason in row.reason for row in done.documents.quarantined)
    assert (done.documents.rows, done.documents.repeated_rows) == (2, 0)


def test_a_text_that_the_model_refused_is_quarantined_with_the_models_reason() -> None:
    vectors = unit_vectors(4)
    vectors[2] = np.nan
    encoded = EncodedTexts(vectors, None, 16, {2: "the model refuses it: IndexError: index out of range"})
    shape = schema(LANG, long_text=LongText.CHUNKS)
    done = finished(window(), tokens([1, 2, 1]), encoded, shape)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2"]
    assert [row.reason for row in done.documents.quarantined] == ["the model refuses it: IndexError: index out of range"]


def test_a_component_beyond_float16_is_a_bad_vector() -> None:
    vectors = unit_vectors(3)
    vectors[2, 5] = 1e6
    done = finished(window(), tokens([1, 1, 1]), EncodedTexts(vectors, None, 12), schema(LANG, vector=VectorType.FLOAT16))
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-1"]
    assert done.documents.quarantined[0].reason.startswith("vector has a component of 1e+06, beyond float16")


def test_chunks_are_rows_and_one_bad_chunk_takes_its_document() -> None:
    shape = schema(LANG, long_text=LongText.CHUNKS)
    vectors = unit_vectors(6)
    vectors[3] = np.nan  # the last of doc-1's three chunks
    done = finished(window([*TEXTS, TEXTS[2]]), tokens([1, 3, 2]), EncodedTexts(vectors, None, 24), shape)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2", "doc-2", "doc-3", "doc-3"]
    assert done.table.column("chunk").to_pylist() == [0, 0, 1, 0, 1]
    assert done.table.column("chunk_start").to_pylist() == [0, 4, 5, 4, 5]
    assert done.table.column("num_tokens").to_pylist() == [4] * 5
    assert np.array_equal(stored(done.table), vectors[[0, 4, 5, 4, 5]])
    assert (done.documents.table.num_rows, len(done.documents.quarantined), done.documents.repeated_rows) == (3, 1, 2)


def test_tokens_keep_a_vector_and_a_string_each() -> None:
    shape = schema(LANG, pooling=Pooling.TOKENS)
    ragged = tokens([1, 1, 1])
    vectors = unit_vectors(12)
    vectors[5] = 0.0  # a token of doc-1
    done = finished(window(), ragged, EncodedTexts(vectors, ragged.offsets, 12), shape)
    assert done.table.column("id").to_pylist() == ["doc-0", "doc-2"]
    assert done.table.column("tokens").to_pylist() == [["t0", "t1", "t2", "t3"], ["t8", "t9", "t10", "t11"]]
    assert np.array_equal(stored(done.table).reshape(-1, DIM), vectors[[0, 1, 2, 3, 8, 9, 10, 11]])


def test_clipping_is_counted_row_by_row() -> None:
    vectors = unit_vectors(12) * 0.2
    vectors[[1, 1, 7], [0, 3, 2]] = 5.0
    for pooling, expected in ((Pooling.MEAN, [0, 2, 0]), (Pooling.TOKENS, [2, 1, 0])):
        ragged = tokens([1, 1, 1])
        encoded = (
            EncodedTexts(vectors, ragged.offsets, 12) if pooling is Pooling.TOKENS else EncodedTexts(vectors[:3], None, 12)
        )
        shape = schema(LANG, pooling=pooling, vector=VectorType.INT8, int8_scale=INT8_SCALE)
        assert finished(window(), ragged, encoded, shape).texts.table.column("clipped").to_pylist() == expected


def test_an_empty_window_passes_its_quarantine_on() -> None:
    empty = DocumentWindow(0, plan(LANG).schema.empty_table(), rows_read=5)
    done = finished(empty, tokens([]), EncodedTexts(np.empty((0, DIM), np.float32), None, 0), schema(LANG))
    assert (done.table.num_rows, done.documents.rows, done.texts.table.num_rows) == (0, 0, 0)

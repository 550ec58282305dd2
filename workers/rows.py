"""A window of documents, its tokens and its vectors become finished output rows.

    documents + TokenizedTexts + EncodedTexts -> FinishedWindow: table in the run's output schema, bad vectors quarantined

A document whose vector (or the vector of any of its chunks or tokens) is not finite or all zeros is quarantined whole, never
written. Pure; knows neither models nor files. D documents, R output rows (R = D, or the chunks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.documents import ID, KEEP, OBJECT, ROW, TEXT, DocumentWindow, QuarantinedRow, RowsDigest, text_hash
from workers.output_schema import EMBEDDING, OutputSchema
from workers.token_records import EncodedTexts, TokenizedTexts, ranges
from workers.vectors import bad_rows, to_arrow, to_arrow_lists


@dataclass(slots=True)
class FinishedWindow:
    """What the writer appends, and what the receipt counts. `documents` = embedded ones."""

    table: pa.Table
    quarantined: list[QuarantinedRow]
    rows_read: int
    documents: int
    tokens: int
    padded_tokens: int
    truncated: int
    clipped: int
    source_digest: RowsDigest


def finished_rows(
    window: DocumentWindow,
    tokens: TokenizedTexts,
    encoded: EncodedTexts,
    schema: OutputSchema,
    token_strings: Callable[[Sequence[int]], list[str]],
) -> FinishedWindow:
    """Assemble one window.

    Args:
        token_strings: ids -> strings, for pooling=tokens only.
    """
    chunked = "chunk" in schema.rows.names
    document_R = tokens.document.astype(np.int64) if chunked else np.arange(window.table.num_rows, dtype=np.int64)
    bad = _bad_documents(encoded, document_R, schema)
    hashes = [text_hash(text) for text in window.table[TEXT].to_pylist()]
    ids = window.table[ID].to_pylist()
    good_D = np.ones(window.table.num_rows, dtype=bool)
    good_D[list(bad)] = False
    rows = np.flatnonzero(good_D[document_R])
    document = document_R[rows]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "id": window.table[ID].take(pa.array(document)),
        "num_tokens": pa.array(tokens.lengths[rows] if chunked else tokens.num_tokens[document], pa.int32()),
        "truncated": pa.array(tokens.truncated[document]),
        "text_hash": pa.array([hashes[index] for index in document], schema.rows.field("text_hash").type),
    }
    if chunked:
        columns |= _chunk_columns(tokens, rows, document)
    columns[EMBEDDING], clipped = _vectors(encoded, rows, schema)
    if schema.lists:
        columns["tokens"] = _token_column(tokens, rows, token_strings)
    for name in schema.rows.names:
        if name not in columns:
            columns[name] = window.table[KEEP + name].take(pa.array(document))
    digest = RowsDigest()
    for index in np.flatnonzero(good_D):
        digest.add(ids[index], hashes[index])
    return FinishedWindow(
        table=pa.Table.from_arrays([columns[name] for name in schema.rows.names], schema=schema.rows),
        quarantined=window.quarantined + [_quarantined(window, index, reason) for index, reason in sorted(bad.items())],
        rows_read=window.rows_read,
        documents=int(good_D.sum()),
        tokens=int(tokens.num_tokens[good_D].sum()),
        padded_tokens=encoded.padded_tokens,
        truncated=int(tokens.truncated[good_D].sum()),
        clipped=clipped,
        source_digest=digest,
    )


def _bad_documents(encoded: EncodedTexts, document_R: npt.NDArray[np.int64], schema: OutputSchema) -> dict[int, str]:
    """Document -> reason; the first bad row of a document names it."""
    reasons: dict[int, str] = {}
    owner = document_R if encoded.offsets is None else np.repeat(document_R, np.diff(encoded.offsets))
    for row, reason in bad_rows(encoded.vectors, schema.stamp.vector).items():
        reasons.setdefault(int(owner[row]), reason)
    return reasons


def _vectors(encoded: EncodedTexts, rows: npt.NDArray[np.int64], schema: OutputSchema) -> tuple[pa.Array, int]:
    stamp = schema.stamp
    if encoded.offsets is None:
        return to_arrow(encoded.vectors[rows], stamp.vector, stamp.int8_scale)
    counts = np.diff(encoded.offsets)[rows]
    return to_arrow_lists(encoded.vectors[ranges(encoded.offsets[rows], counts)], counts, stamp.vector, stamp.int8_scale)


def _token_column(
    tokens: TokenizedTexts, rows: npt.NDArray[np.int64], token_strings: Callable[[Sequence[int]], list[str]]
) -> pa.ListArray:
    counts = tokens.lengths[rows]
    flat = tokens.input_ids[ranges(tokens.offsets[rows], counts)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(token_strings(flat.tolist()), pa.string()))


def _chunk_columns(
    tokens: TokenizedTexts, rows: npt.NDArray[np.int64], document: npt.NDArray[np.int64]
) -> dict[str, pa.Array]:
    if tokens.chunk_start is None or tokens.chunk_end is None:
        raise ValueError("long_text=chunks needs character offsets from the tokeniser")
    first = np.searchsorted(tokens.document, document)  # sequences of a document are neighbours, in order
    return {
        "chunk": pa.array(rows - first, pa.int32()),
        "chunk_start": pa.array(tokens.chunk_start[rows]),
        "chunk_end": pa.array(tokens.chunk_end[rows]),
    }


def _quarantined(window: DocumentWindow, index: int, reason: str) -> QuarantinedRow:
    cell = {name: window.table[name][index].as_py() for name in (ID, OBJECT, ROW)}
    return QuarantinedRow(object=cell[OBJECT], row=cell[ROW], id=str(cell[ID]), reason=reason)

"""Turns what the model made of a window into rows for the local disk: of texts, and of documents that refer to them.

    TokenizedTexts + EncodedTexts -> TextRows        cache rows of the texts embedded now, and which of them are bad
    DedupedWindow + bad texts     -> DocumentRows    one row a document: id, hash, kept columns, range of its cache rows

A text is bad when the model refused it, or when its vector, or that of any of its chunks or tokens, is not finite or all
zeros in any column of vectors. Every document that
has such a text is quarantined whole and never written; the text's cache rows are zeros, and nothing reads them. Pure; knows
neither models nor files.
D documents, N texts embedded now (then P that are only probed), R cache rows (N, or their chunks), V vectors (R, or tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.config import VectorType
from workers.dedup.deduplicator import DedupedWindow
from workers.dedup.hash_index import to_column
from workers.records.documents import ID, KEEP, OBJECT, ROW, DocumentWindow, QuarantinedRow, RowsDigest
from workers.records.tokens import EncodedTexts, TokenizedTexts, text_of_rows, text_of_vectors
from workers.table.representations import derived
from workers.table.schema import (
    CACHE_RANGE,
    CHUNK,
    CHUNK_END,
    CHUNK_START,
    CLIPPED,
    EMBEDDING,
    NUM_TOKENS,
    TEXT_HASH,
    TOKENS,
    TRUNCATED,
    OutputSchema,
)
from workers.table.sparse import INDICES, NO_ENTRY, WEIGHTS, sparse_columns
from workers.table.vectors import Floats, VectorFormat, bad_rows, clipped_components, to_arrow, to_arrow_lists


@dataclass(slots=True)
class TextRows:
    """`table` follows OutputSchema.cache. `bad`: text -> reason."""

    table: pa.Table
    bad: dict[int, str]


@dataclass(slots=True)
class DocumentRows:
    """What the writer appends, and what the receipt counts. `table` follows OutputSchema.documents."""

    table: pa.Table
    quarantined: list[QuarantinedRow]
    rows: int  # output rows that the documents will have
    reused_rows: int
    repeated_rows: int
    source_digest: RowsDigest


def text_rows(
    tokens: TokenizedTexts,
    encoded: EncodedTexts,
    texts: int,
    schema: OutputSchema,
    token_strings: Callable[[Sequence[int]], list[str]],
) -> TextRows:
    """Cache rows of the first `texts` texts; what follows them was only probed.

    Args:
        token_strings: ids -> strings, for pooling=tokens only.
    """
    text_R, text_V = text_of_rows(tokens, schema.chunked), text_of_vectors(tokens, encoded, schema.chunked)
    rows, vectors = (int(np.searchsorted(owner, texts)) for owner in (text_R, text_V))
    text_R, text_V = text_R[:rows], text_V[:vectors]
    refused = {int(tokens.document[sequence]): reason for sequence, reason in encoded.refused.items()}
    formats = schema.stamp.formats
    forms, bad = _without_bad(encoded.vectors[:vectors], text_V, formats, normalize=schema.stamp.normalize)
    bad |= {text: refused[text] for text in bad.keys() & refused.keys()}  # rather than that its vector is not finite
    counts_R = np.ones(rows, np.int64) if encoded.offsets is None else np.diff(encoded.offsets[: rows + 1])
    if schema.sparse:
        bad |= {int(text): NO_ENTRY for text in text_R[counts_R == 0] if int(text) not in bad}
    columns: dict[str, pa.Array] = {
        NUM_TOKENS: pa.array(tokens.row_tokens[:rows] if schema.chunked else tokens.num_tokens[:rows], pa.int32()),
        TRUNCATED: pa.array(tokens.truncated[text_R]),
    }
    clipped_V = np.zeros(vectors, np.int64)
    for form, vectors_VD in zip(formats, forms, strict=True):
        if encoded.indices is not None:
            columns[INDICES], columns[WEIGHTS] = sparse_columns(vectors_VD[:, 0], encoded.indices[:vectors], counts_R)
            clipped = 0
        elif schema.lists:
            columns[form.column], clipped = to_arrow_lists(vectors_VD, counts_R, form.vector, form.int8_scale)
        else:
            columns[form.column], clipped = to_arrow(vectors_VD, form.vector, form.int8_scale)
        if clipped:
            clipped_V += clipped_components(vectors_VD, form.int8_scale)
    if schema.lists and not schema.sparse:
        columns[TOKENS] = _token_column(tokens, rows, token_strings)
    if CLIPPED in schema.cache.names:
        clipped_R = np.bincount(np.repeat(np.arange(rows), counts_R), clipped_V, minlength=rows)
        columns[CLIPPED] = pa.array(clipped_R.astype(np.int32))
    if schema.chunked:
        columns |= _chunk_columns(tokens, text_R)
    cells = [columns[field.name].cast(field.type) for field in schema.cache]
    return TextRows(pa.Table.from_arrays(cells, schema=schema.cache), bad)


def document_rows(deduped: DedupedWindow, bad: Mapping[int, str], schema: OutputSchema) -> DocumentRows:
    """`bad`: first cache row -> reason, of all texts of the shard so far."""
    window, row_D, count_D = deduped.window, deduped.row_D, deduped.count_D
    spoilt_D = np.isin(row_D, list(bad)) if bad else np.zeros(len(row_D), np.bool_)
    good, spoilt = np.flatnonzero(~spoilt_D), np.flatnonzero(spoilt_D)
    reasons = [bad[int(row)] for row in row_D[spoilt]]
    table = window.table.take(pa.array(good)) if len(spoilt) else window.table
    row_D, count_D = row_D[good], count_D[good]
    hashes = to_column(deduped.hashes[good])
    cells = [pa.array(row_D, pa.int64()), pa.array(count_D, pa.int32())]
    columns = {ID: table[ID], TEXT_HASH: hashes, EMBEDDING: pa.StructArray.from_arrays(cells, fields=list(CACHE_RANGE))}
    digest = RowsDigest()
    done = 0
    for ids in table[ID].chunks:
        digest.add_rows(len(ids), [ids, hashes.slice(done, len(ids))])
        done += len(ids)
    arrays = [columns[name] if name in columns else table[KEEP + name] for name in schema.documents.names]
    return DocumentRows(
        table=pa.Table.from_arrays(arrays, schema=schema.documents),
        quarantined=window.quarantined + [_quarantined(window, *one) for one in zip(spoilt.tolist(), reasons, strict=True)],
        rows=int(count_D.sum()),
        reused_rows=int(count_D[deduped.reused_D[good]].sum()),
        repeated_rows=int(count_D[deduped.repeated_D[good]].sum()),
        source_digest=digest,
    )


def _without_bad(
    vectors_VM: Floats, text_V: npt.NDArray[np.integer], formats: Sequence[VectorFormat], *, normalize: bool
) -> tuple[list[Floats], dict[int, str]]:
    """The vectors of each column with those of bad texts as zeros, and text -> reason; the first bad vector names it."""
    bad: dict[int, str] = {}
    forms = [derived(vectors_VM, form, normalize=normalize) for form in formats]
    looked_at: set[tuple[int, bool]] = set()
    for form, vectors_VD in zip(formats, forms, strict=True):
        if (look := (form.dim, form.vector is VectorType.FLOAT16)) in looked_at:
            continue
        looked_at.add(look)
        for vector, reason in bad_rows(vectors_VD, form.vector).items():
            beside = f" (column {form.column})" if form.column != EMBEDDING and not form.sparse else ""
            bad.setdefault(int(text_V[vector]), reason + beside)
    if bad:
        spoilt_V1 = np.isin(text_V, list(bad))[:, None]
        forms = [np.where(spoilt_V1, np.float32(0), vectors_VD) for vectors_VD in forms]
    return forms, bad


def _token_column(tokens: TokenizedTexts, rows: int, token_strings: Callable[[Sequence[int]], list[str]]) -> pa.ListArray:
    flat = tokens.input_ids if tokens.skipped is None else tokens.input_ids[~tokens.skipped]
    counted = tokens.counted_offsets[: rows + 1]
    flat, offsets = flat[: counted[-1]], counted.astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(token_strings(flat.tolist()), pa.string()))


def _chunk_columns(tokens: TokenizedTexts, text_R: npt.NDArray[np.integer]) -> dict[str, pa.Array]:
    if tokens.chunk_start is None or tokens.chunk_end is None:
        raise ValueError("rows of chunks need character offsets from the tokeniser")
    rows = len(text_R)
    first_R = np.searchsorted(text_R, text_R)  # chunks of a text are neighbours, in order
    return {
        CHUNK: pa.array(np.arange(rows) - first_R, pa.int32()),
        CHUNK_START: pa.array(tokens.chunk_start[:rows]),
        CHUNK_END: pa.array(tokens.chunk_end[:rows]),
    }


def _quarantined(window: DocumentWindow, index: int, reason: str) -> QuarantinedRow:
    cell = {name: window.table[name][index].as_py() for name in (ID, OBJECT, ROW)}
    return QuarantinedRow(object=cell[OBJECT], row=cell[ROW], id=str(cell[ID]), reason=reason)

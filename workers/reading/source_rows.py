"""Source rows -> documents and quarantined rows: one policy, the same for every format.

    format reader -> SourceRows (Arrow columns; rows that could not be parsed have their reason) -> validate_rows -> RowChunk

A row is a document when it could be parsed, its id is not null, and its text is neither null, nor empty (Unicode white space
only), nor longer than corpus.max_text_bytes. Several text columns are joined by corpus.separator, nulls left out. NUL bytes
and duplicate ids are accepted (duplicates are counted where rows are written). Every other row becomes a
QuarantinedRow whose reason is a short stable phrase, then details. Knows nothing of files and formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.records.documents import KEEP, TEXT, QuarantinedRow, ReadPlan
from workers.storage.objects import object_key
from workers.storage.uris import redact

EMPTY = "text is empty"


@dataclass(slots=True)
class SourceRows:
    """Consecutive rows of one object, as columns of equal length. A row's place is its index here.

    ids: plan.id_type, or None where ids are made from row numbers; texts: large_string; keep: the types of plan.keep.
    """

    first_row: int | None  # row number of place 0 within the object; None: not known
    ids: pa.Array | None
    texts: list[pa.Array]
    keep: list[pa.Array]
    reasons: dict[int, str] = field(default_factory=dict)  # place -> why the row cannot be a document
    spans: dict[int, int] = field(default_factory=dict)  # place -> source rows lost there, where it is not 1
    offsets: list[int] | None = None  # byte offset of each row, to name rows that have no number
    seen: set[str] = field(default_factory=set)  # kept columns that at least one row has, be it null there


@dataclass(slots=True)
class RowChunk:
    """Rows of one object, validated: `table` (plan.schema) holds the documents, `places` their places among `size` rows."""

    table: pa.Table
    places: NDArray[np.int64]
    size: int
    quarantined: list[tuple[int, QuarantinedRow]]  # by place, ascending
    seen: frozenset[str] = frozenset()  # kept columns that at least one row has

    @property
    def rows_read(self) -> int:
        return len(self.places) + sum(row.rows or 0 for _, row in self.quarantined)


def validate_rows(rows: SourceRows, uri: str, plan: ReadPlan, deleted: NDArray[np.int64] | None = None) -> RowChunk:
    """Divide the rows of one object into documents and quarantined rows. `deleted`: places of rows that are neither.

    Raises:
        ValueError: ids are to be made from row numbers that are not known; the plan must give first_row then.
    """
    text = join_texts(rows.texts, plan.corpus.separator)
    size = len(text)
    reasons = dict(rows.reasons)
    if rows.ids is not None and rows.ids.null_count:
        _refuse(reasons, rows.ids.is_null(), "id is null")
    _refuse_texts(reasons, text, plan.corpus.max_text_bytes)

    good = np.ones(size, dtype=bool)
    good[list(reasons)] = False
    if deleted is not None and len(deleted):
        good[deleted] = False
        for place in deleted.tolist():
            reasons.pop(place, None)
    places = np.flatnonzero(good)
    ids = _made_ids(rows.first_row, uri, size) if rows.ids is None else rows.ids
    origin = pa.DictionaryArray.from_arrays(np.zeros(size, dtype=np.int32), pa.array([redact(uri)], pa.string()))
    numbers = pa.nulls(size, pa.int64()) if rows.first_row is None else pa.array(rows.first_row + np.arange(size))
    table = pa.Table.from_arrays([ids, text, origin, numbers, *rows.keep], schema=plan.schema)
    quarantined = [(place, _quarantine(rows, ids, place, reasons[place], uri)) for place in sorted(reasons)]
    table = table if len(places) == size else table.filter(pa.array(good))
    return RowChunk(table, places, size, quarantined, frozenset(rows.seen))


def join_texts(texts: list[pa.Array], separator: str) -> pa.Array:
    """One large_string column; null only where every column is null."""
    between = pa.scalar(separator, pa.large_string())
    text = texts[0]
    for column in texts[1:]:  # pairwise: with null_handling="skip" pyarrow 26 drops rows that are null in every column
        text = pc.coalesce(pc.binary_join_element_wise(text, column, between), text, column)
    return text


def _refuse_texts(reasons: dict[int, str], text: pa.Array, longest: int) -> None:
    if text.null_count:
        _refuse(reasons, text.is_null(), "text is null")
    lengths = pc.binary_length(text)
    empty = pc.or_(pc.equal(lengths, 0), pc.utf8_is_space(text)).fill_null(False)
    if empty.true_count:
        _refuse(reasons, empty, EMPTY)
    too_long = pc.greater(lengths, longest).fill_null(False)
    for place in np.flatnonzero(too_long.to_numpy(zero_copy_only=False)).tolist() if too_long.true_count else ():
        reasons.setdefault(place, f"text is too long ({lengths[place]} bytes, corpus.max_text_bytes is {longest})")


def _refuse(reasons: dict[int, str], mask: pa.Array, reason: str) -> None:
    for place in np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist():
        reasons.setdefault(place, reason)


def _made_ids(first_row: int | None, uri: str, size: int) -> pa.Array:
    if first_row is None:
        raise ValueError(f"{redact(uri)}: ids are made from row numbers, but the slice was planned without first_row")
    key = object_key(redact(uri))  # a signed URL's query is a secret, and ids are published
    return pa.array([f"{key}#{row}" for row in range(first_row, first_row + size)], pa.string())


def _quarantine(rows: SourceRows, ids: pa.Array, place: int, reason: str, uri: str) -> QuarantinedRow:
    if rows.first_row is None and rows.offsets is not None:
        reason = f"{reason}, at byte {rows.offsets[place]}"
    number = None if rows.first_row is None else rows.first_row + place
    identity = ids[place].as_py()
    return QuarantinedRow(redact(uri), number, None if identity is None else str(identity), reason, rows.spans.get(place, 1))


def text_bytes(table: pa.Table) -> NDArray[np.int64]:
    """[documents] UTF-8 bytes of each text."""
    return np.asarray(pc.binary_length(table[TEXT]).to_numpy(), dtype=np.int64)


def kept_bytes(table: pa.Table) -> int:
    """Bytes that the kept columns take in Arrow's memory."""
    return sum(table[name].nbytes for name in table.column_names if name.startswith(KEEP))

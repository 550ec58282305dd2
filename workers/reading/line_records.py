"""Records of formats without a schema (JSONL, CSV, plain text) -> SourceRows: what these readers share.

    SourceStream -> line splitter -> records of the format (one per source row) -> batches -> Arrow columns

A record is (byte offset, bytes, cells). The cells are the format's own, or Bad: a row that could not be parsed, with the
reason. A row's number is the number of records before it in the object; blank lines are no records. Batches end after
BATCH_ROWS records or BATCH_BYTES bytes, so they are a function of the slice's content alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from workers.config import CorpusConfig
from workers.errors import ObjectError
from workers.reading.columns import Column
from workers.reading.lines import LINE_OVERHEAD, Damaged, LongLine, is_blank, split_lines
from workers.reading.notation import text_refusal
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BATCH_ROWS = 2048
BATCH_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that could not be parsed; `rows` is how many source rows are lost with it."""

    reason: str
    rows: int = 1


Record = tuple[int, int, Any]
Convert = Callable[[SourceRows, list[Any]], None]
"""Fills ids, texts, keep (and reasons) of SourceRows from cells; cells are None where a record was Bad."""


def gather(
    records: Iterator[Record], stream: SourceStream, piece: ObjectSlice, compression: str | None, convert: Convert
) -> Iterator[SourceRows]:
    """Batches of records, converted.

    Raises:
        ObjectError: the compressed stream is truncated or corrupt; says how many rows came before.
    """
    row = 0 if piece.first_row is None and piece.start == 0 else piece.first_row
    rows, cells, done, size = SourceRows(row, None, [], [], offsets=[]), list[Any](), 0, 0
    while True:
        try:
            record = next(records, None)
        except Damaged as error:
            count = done + len(cells)
            reason = f"truncated or corrupt {compression} after {count} rows ({error}); upload it again"
            raise ObjectError(stream.uri, reason, count) from None
        if cells and (record is None or len(cells) >= BATCH_ROWS or size >= BATCH_BYTES):
            convert(rows, cells)
            yield rows
            done += len(cells)
            rows = SourceRows(None if row is None else row + done, None, [], [], offsets=[])
            cells, size = [], 0
        if record is None:
            return
        offset, length, cell = record
        if isinstance(cell, Bad):
            rows.reasons[len(cells)] = cell.reason
            if cell.rows != 1:
                rows.spans[len(cells)] = cell.rows
            cell = None
        if rows.offsets is not None:
            rows.offsets.append(offset)
        cells.append(cell)
        size += length


def take(rows: SourceRows, column: Column) -> pa.Array:
    """The column, its bad places noted in `rows`."""
    for place, reason in column[1].items():
        rows.reasons.setdefault(place, reason)
    return column[0]


def too_long(size: int, plan: ReadPlan, what: str = "line") -> Bad:
    return Bad(f"{what} is too long ({size} bytes, corpus.max_text_bytes is {plan.corpus.max_text_bytes})")


def partition_column(piece: ObjectSlice, name: str, count: int) -> pa.Array:
    """A column of the object's path (key=value); all null where the path has none of that name."""
    value = dict(piece.partitions).get(name)
    return pa.nulls(count, pa.string()) if value is None else pa.repeat(pa.scalar(value, pa.string()), count)


def require_castable(uri: str, name: str, target: pa.DataType) -> None:
    """Raises: ObjectError: the format has strings only, and the kept column's type cannot be made from them."""
    reason = text_refusal(target)
    if reason:
        raise ObjectError(
            uri, f"kept column {name!r}: {reason}, its type in the rest of the corpus; leave it out of corpus.keep"
        )


def line_starts(stream: SourceStream, _piece: ObjectSlice, corpus: CorpusConfig) -> Iterator[int]:
    """Byte offsets of the lines that are rows, of a whole object that is not compressed. Raises: TransientError."""
    for offset, line in split_lines(stream.read, 0, None, corpus.max_text_bytes + LINE_OVERHEAD):
        if isinstance(line, LongLine) or not is_blank(line):
            yield offset


def mean_line_bytes(head: bytes, _corpus: CorpusConfig) -> float:
    """Mean bytes of a line, line end included."""
    return len(head) / max(1, head.count(b"\n"))

"""Line formats (JSONL, CSV, plain text) -> SourceRows: what the three have in common, and plain text itself.

    SourceStream -> line splitter -> records of the format (one per source row) -> batches -> Arrow columns

A record is (byte offset, bytes, cells) where cells are the format's own, or Bad: a row that could not be parsed, with the
reason. A row's number is the number of records before it in the object; blank lines are no records. Batches end after
BATCH_ROWS records or BATCH_BYTES bytes, a function of the slice's content alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from workers.errors import ObjectError
from workers.reading.columns import Column, kept_column, refusal, text_column
from workers.reading.lines import BLOCK_BYTES, BOM, LINE_OVERHEAD, Damaged, LongLine, is_blank, open_bytes, read_lines
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
    reason = refusal(pa.string(), target)
    if reason:
        raise ObjectError(
            uri, f"kept column {name!r}: {reason}, its type in the rest of the corpus; leave it out of corpus.keep"
        )


def read_text(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Plain text: a row is a line that is not blank, or the whole file (corpus.text_unit). Its one column is `text`.

    Raises:
        ObjectError, TransientError.
    """
    for name in plan.corpus.text:
        if name != "text" and name not in dict(piece.partitions):
            raise ObjectError(stream.uri, f"plain text has no column {name!r}, only 'text'; correct corpus.text")
    for column in plan.keep:
        require_castable(stream.uri, column.name, column.type)
    whole = plan.corpus.text_unit == "file"
    records = _file_record(stream, plan, compression) if whole else _text_lines(stream, piece, plan, compression)

    def convert(rows: SourceRows, cells: list[Any]) -> None:
        count = len(cells)
        column = take(rows, text_column(pa.array(cells, pa.large_binary()), "text"))

        def named(name: str) -> pa.Array:
            return column if name == "text" else partition_column(piece, name, count)

        rows.texts = [named(name).cast(pa.large_string()) for name in plan.corpus.text]
        rows.keep = [take(rows, kept_column(named(field.name), field.type, field.name)) for field in plan.keep]

    yield from gather(records, stream, piece, compression, convert)


def _text_lines(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
    for offset, line in read_lines(stream, piece, compression, plan.corpus.max_text_bytes + LINE_OVERHEAD):
        if isinstance(line, LongLine):
            yield offset, 0, too_long(line.size, plan)
        elif not is_blank(line):
            yield offset, len(line), line.removesuffix(b"\n").removesuffix(b"\r")


def _file_record(stream: SourceStream, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
    """One record, or none for a file of zero bytes. A file beyond the limit streams by: its size is worth telling."""
    read = open_bytes(stream, compression)
    parts: list[bytes] = []
    size = 0
    limit = plan.corpus.max_text_bytes + len(BOM)
    while block := read(BLOCK_BYTES):
        size += len(block)
        if size <= limit:
            parts.append(block)
        else:
            parts.clear()
    if size > limit:
        yield 0, 0, too_long(size, plan, "file")
    elif size:
        yield 0, size, b"".join(parts).removeprefix(BOM)

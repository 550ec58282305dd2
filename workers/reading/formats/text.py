"""Plain text -> SourceRows: a row is a line that is not blank, or the whole file (corpus.text_unit).

The one column is `text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from workers.config import CorpusConfig, SourceFormat
from workers.errors import ObjectError
from workers.reading.columns import text_column
from workers.reading.formats.traits import FormatTraits, Split
from workers.reading.line_records import (
    Record,
    gather,
    line_starts,
    mean_line_bytes,
    partition_column,
    require_castable,
    take,
    too_long,
)
from workers.reading.lines import (
    BLOCK_BYTES,
    BOM,
    CR_ALONE,
    LINE_OVERHEAD,
    LongLine,
    cr_alone,
    is_blank,
    open_bytes,
    read_lines,
)
from workers.reading.source_rows import SourceRows
from workers.reading.typed.strings import kept_strings
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

TEXT_COLUMN = "text"


def read_text(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Raises: ObjectError (corpus.text names another column, compressed stream damaged), TransientError."""
    for name in plan.corpus.text:
        if name != TEXT_COLUMN and name not in dict(piece.partitions):
            raise ObjectError(stream.uri, f"plain text has no column {name!r}, only 'text'; correct corpus.text")
    for column in plan.keep:
        if column.name not in plan.corpus.types:
            require_castable(stream.uri, column.name, column.type)
    whole_file = plan.corpus.text_unit == "file"
    records = _file_record(stream, plan, compression) if whole_file else _line_records(stream, piece, plan, compression)

    def convert(rows: SourceRows, cells: list[Any]) -> None:
        count = len(cells)
        column = take(rows, text_column(pa.array(cells, pa.large_binary()), "text"))

        def named(name: str) -> pa.Array:
            return column if name == TEXT_COLUMN else partition_column(piece, name, count)

        rows.texts = [named(name).cast(pa.large_string()) for name in plan.corpus.text]
        for field in plan.keep:
            rows.keep.append(take(rows, kept_strings(named(field.name), field, field.name in plan.corpus.types)))
            if field.name == TEXT_COLUMN or field.name in dict(piece.partitions):
                rows.seen.add(field.name)

    yield from gather(records, stream, piece, compression, convert)


def _line_records(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
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


def _error(head: bytes, complete: bool, _uri: str, corpus: CorpusConfig) -> str | None:
    return f"{CR_ALONE}, or set corpus.text_unit: file" if corpus.text_unit == "line" and cr_alone(head, complete) else None


def _split(corpus: CorpusConfig) -> Split:
    return Split.RECORDS if corpus.text_unit == "line" else Split.NONE


def _record_bytes(head: bytes, corpus: CorpusConfig) -> float | None:
    return mean_line_bytes(head, corpus) if corpus.text_unit == "line" else None


TRAITS = FormatTraits(
    format=SourceFormat.TEXT,
    title="text",
    suffixes=(".txt",),
    read=read_text,
    random_access=False,
    split=_split,
    record_starts=line_starts,
    enter_anywhere=True,
    has_id_column=False,
    empty_has_no_rows=True,
    columns=(TEXT_COLUMN,),
    examine=_error,
    record_bytes=_record_bytes,
)

"""CSV and TSV -> SourceRows, by Python's csv module in strict mode.

    lines -> records (a quoted field may hold line ends) -> cells -> Arrow strings -> the types of the plan

The header is the first record of the object, also for a slice that begins later. Empty lines are no rows. An empty cell is
an empty text, a null id, a null kept value, or '' where the kept column is a string. A record is quarantined when it is not
UTF-8, not CSV, or has another number of fields than the header.

A quote that is opened and not closed where it should be swallows the lines that follow. They are not parsed a second time,
for pieces of one long text must never pass for documents of their own. Instead a bad record that spans several lines is
counted as that many lost rows and names the bytes it covers, so such a loss shows in the number of quarantined rows. Memory
stays bounded: beyond the longest text a record is only followed, by counting quotes, to the line where it closes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.types as pt

from workers.config import CorpusConfig, SourceFormat
from workers.errors import ObjectError
from workers.reading.columns import id_column
from workers.reading.formats.traits import FormatTraits, HeadSample, Split, always, strip_compression
from workers.reading.line_records import (
    Bad,
    Record,
    gather,
    mean_line_bytes,
    partition_column,
    require_castable,
    take,
    too_long,
)
from workers.reading.lines import LINE_OVERHEAD, QUOTE, Line, LongLine, read_lines, split_lines
from workers.reading.source_rows import SourceRows
from workers.reading.typed.strings import kept_strings
from workers.reading.typed.type_names import shown_names
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

UNCLOSED = "a quote is never closed"
FIELD_LIMIT = (1 << 31) - 1  # csv's own limit is 128 KiB for the whole process; ours is the record's size


def read_csv(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Raises: ObjectError (header lacks a column, compressed stream damaged), TransientError."""
    corpus = plan.corpus
    places: dict[str, int] = {}

    def records() -> Iterator[Record]:
        limit = corpus.max_text_bytes + LINE_OVERHEAD
        delimiter = delimiter_of(piece.uri)
        header: list[str] | None = None
        if piece.start:
            stream.seek(0)
            header = _header(_parse(split_lines(stream.read, 0, None, limit), delimiter, None, plan), stream.uri)
        rest = _parse(read_lines(stream, piece, compression, limit), delimiter, header, plan)
        if header is None:
            header = _header(rest, stream.uri)
        places.update(_resolve(header, stream.uri, piece, plan))
        yield from rest

    def convert(rows: SourceRows, cells: list[Any]) -> None:
        def column(name: str) -> pa.Array:
            if name not in places:
                return partition_column(piece, name, len(cells))
            place = places[name]
            return pa.array([None if cell is None else cell[place] for cell in cells], pa.string())

        def nullable(name: str) -> pa.Array:
            array = column(name)
            return pa.compute.if_else(pa.compute.equal(array, ""), pa.scalar(None, pa.string()), array)

        if corpus.id is not None:
            rows.ids = take(rows, id_column(nullable(corpus.id), plan.id_type))
        rows.texts = [column(name).cast(pa.large_string()) for name in corpus.text]
        for field in plan.keep:
            is_string = pt.is_string(field.type) or pt.is_large_string(field.type)
            array = column(field.name) if is_string else nullable(field.name)
            rows.keep.append(take(rows, kept_strings(array, field, field.name in corpus.types)))
            if field.name in places or field.name in dict(piece.partitions):
                rows.seen.add(field.name)

    yield from gather(records(), stream, piece, compression, convert)


def delimiter_of(uri: str) -> str:
    """Field delimiter of an object: a tab for .tsv, else a comma."""
    return "\t" if strip_compression(uri)[0].endswith(".tsv") else ","


def sample_header(head: bytes, complete: bool, uri: str, corpus: CorpusConfig) -> HeadSample | None:
    """Column names of the header, as the reader finds them; None: it does not end in these bytes.

    Raises:
        ObjectError: the header cannot be read.
    """
    whole = head if complete else head[: head.rfind(b"\n") + 1]
    lines = split_lines(io.BytesIO(whole).read, 0, None, corpus.max_text_bytes + LINE_OVERHEAD)
    for _, _, cells in _parse(lines, delimiter_of(uri), None, ReadPlan(corpus, pa.string(), pa.schema([]))):
        if isinstance(cells, Bad) and not complete and cells.reason.startswith(UNCLOSED):
            return None
        return HeadSample(tuple(_header(iter([(0, 0, cells)]), uri)), exact=True)
    return None


def record_starts(stream: SourceStream, piece: ObjectSlice, corpus: CorpusConfig) -> Iterator[int]:
    """Byte offsets of the records below the header. Raises: ObjectError (no usable header), TransientError."""
    plan = ReadPlan(corpus.model_copy(update={"id": None, "keep": []}), pa.string(), pa.schema([]))
    for rows in read_csv(stream, piece, plan, None):
        yield from rows.offsets or ()


def _header(records: Iterator[Record], uri: str) -> list[str]:
    """The first record; empty for an object without any."""
    for _, _, cells in records:
        if isinstance(cells, Bad):
            raise ObjectError(uri, f"the header cannot be read: {cells.reason}; correct it and upload it again")
        return list(cells)
    return []


def _resolve(header: list[str], uri: str, piece: ObjectSlice, plan: ReadPlan) -> dict[str, int]:
    """Column name -> its place in a record, for the columns wanted.

    Raises:
        ObjectError: a column is missing, stands twice, or its kept type cannot be made from strings.
    """
    corpus = plan.corpus
    paths = dict(piece.partitions)
    wanted = [("corpus.id", name) for name in [corpus.id] if name] + [("corpus.text", name) for name in corpus.text]
    for setting, name in wanted if header else ():
        if name not in header and name not in paths:
            raise ObjectError(
                uri, f"has no column {name!r} ({setting}), only {shown_names(header)}; correct the setting or the object"
            )
    for field in plan.keep:
        if field.name not in corpus.types:
            require_castable(uri, field.name, field.type)
    places = {name: header.index(name) for name in [*(name for _, name in wanted), *plan.keep.names] if name in header}
    for name in places:
        if header.count(name) > 1:
            raise ObjectError(uri, f"has more than one column {name!r}; rename one and upload it again")
    return places


def _parse(lines: Iterator[Line], delimiter: str, header: list[str] | None, plan: ReadPlan) -> Iterator[Record]:
    """Records; the first one sets the number of fields unless a header is given."""
    csv.field_size_limit(FIELD_LIMIT)
    width = len(header) if header is not None else None
    feed = _Feed(lines, plan.corpus.max_text_bytes + LINE_OVERHEAD)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin()
        try:
            cells: Any = next(reader)
        except StopIteration:
            return
        except _RecordTooLong:
            bad = too_long(feed.size, plan, "record")
            cells = bad if feed.closed else Bad(f"{bad.reason}: {UNCLOSED}, {feed.extent()}", feed.count)
        except csv.Error as error:
            if feed.ended:
                cells = Bad(f"{UNCLOSED}, {feed.extent()}", feed.count)
            else:
                cells = Bad(f"record is not valid CSV ({error}), {feed.extent()}", feed.count)
        if not cells and isinstance(cells, list):
            continue
        if not isinstance(cells, Bad):
            width = len(cells) if width is None else width
            if feed.damage is not None:
                cells = Bad(f"record is not valid UTF-8 (byte {feed.damage}), {feed.extent()}", feed.count)
            elif len(cells) != width:
                cells = Bad(f"record has {len(cells)} fields where the header has {width}, {feed.extent()}", feed.count)
        yield feed.start, feed.size, cells


class _RecordTooLong(Exception):
    pass


class _Feed:
    """Gives csv.reader its lines and remembers what the record at hand has taken. csv.reader asks for one line a record;
    that it asks for another means that a quoted field is still open."""

    def __init__(self, lines: Iterator[Line], limit: int) -> None:
        self._lines = lines
        self._limit = limit
        self.ended = False
        self.begin()

    def begin(self) -> None:
        """A new record begins with the next line."""
        self.start = self.size = self.count = 0
        self.closed = True
        self.damage: int | None = None

    def extent(self) -> str:
        end = self.start + self.size
        return f"bytes {self.start} to {end}" + (f" ({self.count} lines)" if self.count > 1 else "")

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self.size > self._limit:
            self._follow(still_open=True)
        line = self._take()
        if isinstance(line, LongLine):
            self._follow(still_open=(self.count > 1) != bool(line.quotes % 2))
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.damage = self.start + self.size - len(line) + error.start if self.damage is None else self.damage
            return line.decode("utf-8", "replace")

    def _take(self) -> bytes | LongLine:
        try:
            offset, line = next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        if self.count == 0:
            self.start = offset
        self.count += 1
        self.size += line.size if isinstance(line, LongLine) else len(line)
        return line

    def _follow(self, *, still_open: bool) -> NoReturn:
        """Let lines go by until the quoted field closes."""
        while still_open:
            try:
                line = self._take()
            except StopIteration:
                self.closed = False
                break
            quotes = line.quotes if isinstance(line, LongLine) else line.count(QUOTE)
            still_open = quotes % 2 == 0
        raise _RecordTooLong


TRAITS = FormatTraits(
    format=SourceFormat.CSV,
    title="CSV",
    suffixes=(".csv", ".tsv"),
    read=read_csv,
    random_access=False,
    split=always(Split.RECORDS),  # only a scan tells a quoted line break from a record's end
    record_starts=record_starts,
    empty_has_no_rows=True,
    sample=sample_header,
    record_bytes=mean_line_bytes,
)

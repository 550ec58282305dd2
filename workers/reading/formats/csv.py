"""CSV and TSV -> SourceRows, by Python's csv module in strict mode.

    lines -> records (a quoted field may hold line ends) -> cells -> Arrow strings -> the types of the plan

How an object is written is decided in csv_dialect.py. The header is its first record, also for a slice that begins later, or
corpus.csv.columns. Empty lines are no rows. An empty cell is
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
from workers.reading.formats.csv_check import csv_error
from workers.reading.formats.csv_dialect import QUOTE, QUOTED_TSV, Dialect, dialect_of, first_lines, mend_of_header
from workers.reading.formats.traits import FormatTraits, HeadSample, Split, always
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
from workers.reading.lines import LINE_OVERHEAD, Line, LongLine, read_lines, split_lines
from workers.reading.source_rows import SourceRows
from workers.reading.typed.strings import kept_strings
from workers.reading.typed.type_names import shown_names
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

UNCLOSED = "a quote is never closed"


def read_csv(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Raises: ObjectError (header lacks a column, compressed stream damaged), TransientError."""
    corpus = plan.corpus
    places: dict[str, int] = {}

    def records() -> Iterator[Record]:
        limit = corpus.max_text_bytes + LINE_OVERHEAD
        dialect = dialect_of(piece.uri, corpus.csv, plain_tsv=plan.row_rules > 1)
        if piece.start:
            stream.seek(0)
            begin = split_lines(stream.read, 0, None, limit, dialect.count_quotes)
            dialect, header, _ = _begin(begin, dialect, stream.uri, plan)
            lines = read_lines(stream, piece, compression, limit, dialect.count_quotes)
        else:
            begin = read_lines(stream, piece, compression, limit, dialect.count_quotes)
            dialect, header, lines = _begin(begin, dialect, stream.uri, plan)
        places.update(_resolve(header, dialect, stream.uri, piece, plan))
        if header:
            rows = _parse(lines, dialect, len(header), plan)
            yield from _without_halves(rows) if dialect.wary else rows

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


def sample_header(head: bytes, complete: bool, uri: str, corpus: CorpusConfig) -> HeadSample | None:
    """Column names of the header, as the reader finds them; None: it does not end in these bytes.

    Raises:
        ObjectError: the header cannot be read.
    """
    plan, dialect = ReadPlan(corpus, pa.string(), pa.schema([])), dialect_of(uri, corpus.csv)
    whole = head if complete else head[: head.rfind(b"\n") + 1]
    limit = corpus.max_text_bytes + LINE_OVERHEAD
    try:
        _, names, _ = _begin(split_lines(io.BytesIO(whole).read, 0, None, limit, dialect.count_quotes), dialect, uri, plan)
    except ObjectError as error:
        if complete or UNCLOSED not in error.reason:
            raise
        return None
    return HeadSample(tuple(names), exact=True) if names else None


def record_starts(stream: SourceStream, piece: ObjectSlice, corpus: CorpusConfig) -> Iterator[int]:
    """Byte offsets of the records below the header. Raises: ObjectError (no usable header), TransientError."""
    plan = ReadPlan(corpus.model_copy(update={"id": None, "keep": []}), pa.string(), pa.schema([]))
    for rows in read_csv(stream, piece, plan, None):
        yield from rows.offsets or ()


def _begin(lines: Iterator[Line], dialect: Dialect, uri: str, plan: ReadPlan) -> tuple[Dialect, list[str], Iterator[Line]]:
    """The object's dialect, its columns (none: it holds no record), and the lines below the header.

    Raises: ObjectError: no usable header.
    """
    settings = plan.corpus.csv
    dialect, lines = first_lines(lines, dialect, settings, uri)
    if not settings.header:
        return dialect, list(settings.columns), lines
    _, _, cells = next(_parse(lines, dialect, None, plan), (0, 0, []))
    if isinstance(cells, Bad):
        raise ObjectError(
            uri,
            f"the header cannot be read: {cells.reason}; correct it and upload it again, or set corpus.csv as it is written",
        )
    return dialect, list(settings.columns if cells and settings.columns else cells), lines


def _resolve(header: list[str], dialect: Dialect, uri: str, piece: ObjectSlice, plan: ReadPlan) -> dict[str, int]:
    """Column name -> its place in a record, for the columns wanted.

    Raises:
        ObjectError: a column is missing, stands twice, or its kept type cannot be made from strings.
    """
    corpus = plan.corpus
    paths = dict(piece.partitions)
    wanted = [("corpus.id", name) for name in [corpus.id] if name] + [("corpus.text", name) for name in corpus.text]
    for setting, name in wanted if header else ():
        if name not in header and name not in paths:
            mend = mend_of_header(header, dialect, name) or "correct the setting or the object"
            raise ObjectError(uri, f"has no column {name!r} ({setting}), only {shown_names(header)}; {mend}")
    for field in plan.keep:
        if field.name not in corpus.types:
            require_castable(uri, field.name, field.type)
    places = {name: header.index(name) for name in [*(name for _, name in wanted), *plan.keep.names] if name in header}
    for name in places:
        if header.count(name) > 1:
            raise ObjectError(uri, f"has more than one column {name!r}; rename one and upload it again")
    return places


def _parse(lines: Iterator[Line], dialect: Dialect, width: int | None, plan: ReadPlan) -> Iterator[Record]:
    """Records; the first one sets the number of fields unless that is given."""
    feed = _Feed(lines, dialect, plan.corpus.max_text_bytes + LINE_OVERHEAD)
    reader = dialect.records(feed)
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
                name = dialect.encoding.upper()
                cells = Bad(f"record is not valid {name} (byte {feed.damage}), {feed.extent()}", feed.count)
            elif len(cells) != width:
                cells = Bad(f"record has {len(cells)} fields where the header has {width}, {feed.extent()}", feed.count)
            elif dialect.wary and any(map(dialect.looks_quoted, cells)):
                cells = Bad(
                    f"a field begins and ends with a quote and holds doubled ones: {QUOTED_TSV}, {feed.extent()}", feed.count
                )
        yield feed.start, feed.size, cells


def _without_halves(records: Iterator[Record]) -> Iterator[Record]:
    """The records, but not the first line of a field that was quoted after all: one that opens a quote, before a bad one."""
    held: Record | None = None
    for record in records:
        if held is not None:
            offset, size, cells = held
            opens = not isinstance(cells, Bad) and cells[-1][:1] == QUOTE and cells[-1].count(QUOTE) % 2
            if opens and isinstance(record[2], Bad):
                held = offset, size, Bad(f"its last field opens a quote, and the next line is no record: {QUOTED_TSV}")
            yield held
        held = record
    if held is not None:
        yield held


class _RecordTooLong(Exception):
    pass


class _Feed:
    """Gives csv.reader its lines and remembers what the record at hand has taken. csv.reader asks for one line a record;
    that it asks for another means that a quoted field is still open."""

    def __init__(self, lines: Iterator[Line], dialect: Dialect, limit: int) -> None:
        self._lines = lines
        self._dialect = dialect
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
            text = line.decode(self._dialect.encoding)
        except UnicodeDecodeError as error:
            self.damage = self.start + self.size - len(line) + error.start if self.damage is None else self.damage
            text = line.decode(self._dialect.encoding, "replace")
        return self._dialect.without_nulls(text) if self.count == 1 else text

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
            quotes = line.quotes if isinstance(line, LongLine) else self._dialect.count_quotes(line)
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
    examine=csv_error,
    record_bytes=mean_line_bytes,
)

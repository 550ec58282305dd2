"""How one CSV object is written: corpus.csv, completed by the object's name and its first line. Reads no rows.

    dialect_of       delimiter, quotes, escapes and encoding
    mend_of_header   the setting by which a header has the column that it seems to lack
    first_lines      the lines from the header on: skipped are `corpus.csv.skip_rows` of them, and a line `sep=;`

Quotes in .tsv are text unless corpus.csv.quote says otherwise. Titles, questions and passages are published that way, and a
reader that takes their quotes for its own drops them, and swallows the lines up to the next one, without any error. The
other mistake shows: a quoted header is not the name of a column, a quoted tab or line end changes the number of fields, and
a field that looks as a writer quotes it is refused (`Dialect.wary`).
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workers.config import CsvConfig
from workers.errors import ObjectError
from workers.reading.formats.traits import strip_compression
from workers.reading.lines import BOM, Line, LongLine

FIELD_LIMIT = (1 << 31) - 1  # csv's own limit is 128 KiB for the whole process; ours is the record's size
_DELIMITERS, _QUOTES = ";\t|,", "\"'"  # tried where a header lacks a column
_NAMES = {"\t": "a tab"}
QUOTE = '"'
QUOTED_TSV = "set corpus.csv.quote: '\"' if its writer quoted it, or '' if these quotes are text"
_SEP = re.compile(rb"sep=([^\r\n])\r?\n?")


@dataclass(frozen=True, slots=True)
class Dialect:
    """`quote`, `escape`: "" for none. `wary`: nobody said that quotes are text, so a field that looks quoted is refused."""

    delimiter: str
    quote: str = QUOTE
    escape: str = ""
    skip_blanks: bool = False
    encoding: str = "utf-8"
    wary: bool = False

    def records(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """The cells of each record, by Python's csv module in strict mode. Raises: csv.Error."""
        csv.field_size_limit(FIELD_LIMIT)
        settings: dict[str, Any] = (
            {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
        )
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            escapechar=self.escape or None,
            skipinitialspace=self.skip_blanks,
            strict=True,
            **settings,
        )

    def looks_quoted(self, cell: str) -> bool:
        """Whether a writer may have quoted a cell whose quotes are taken as text: doubled ones within a pair of them."""
        inside = cell[1:-1]
        return self.wary and cell[:1] == QUOTE == cell[-1:] and '""' in inside and '"' not in inside.replace('""', "")

    def count_quotes(self, data: bytes) -> int:
        """Quotes that begin or end something: those behind an escape are text."""
        if not self.quote:
            return 0
        quote = self.quote.encode(self.encoding)
        count = data.count(quote)
        return count - data.count(self.escape.encode(self.encoding) + quote) if self.escape else count

    def without_nulls(self, line: str) -> str:
        r"""The first line of a record, its fields `\N` made empty: the csv module would take them for the text N."""
        if not self.escape or f"{self.escape}N" not in line:
            return line
        return _nulls(self.delimiter, self.quote, self.escape).sub(lambda found: found["quoted"] or "", line)


@functools.lru_cache
def _nulls(delimiter: str, quote: str, escape: str) -> re.Pattern[str]:
    d, q, e = map(re.escape, (delimiter, quote, escape))
    quoted = rf"{q}(?:[^{q}{e}]|{e}.|{q}{q})*(?:{q}|\Z)" if quote else r"(?!)"
    return re.compile(rf"(?P<quoted>{quoted})|(?<![^{d}]){e}N(?![^{d}\r\n])", re.DOTALL)


def delimiter_of(uri: str) -> str:
    """Field delimiter of an object: a tab for .tsv, else a comma."""
    return "\t" if strip_compression(uri)[0].endswith(".tsv") else ","


def dialect_of(uri: str, config: CsvConfig, *, plain_tsv: bool = True) -> Dialect:
    """`plain_tsv` False: for a run that began when .tsv was read as quoted."""
    delimiter = delimiter_of(uri) if config.delimiter == "auto" else config.delimiter
    plain = config.quote == "auto" and plain_tsv and strip_compression(uri)[0].endswith(".tsv")
    quote = ("" if plain else '"') if config.quote == "auto" else config.quote
    return Dialect(delimiter, quote, config.escape, config.skip_blanks, config.encoding, wary=plain)


def first_lines(lines: Iterator[Line], dialect: Dialect, config: CsvConfig, uri: str) -> tuple[Dialect, Iterator[Line]]:
    """Raises: ObjectError: `sep=` and corpus.csv.delimiter contradict each other. Damaged, TransientError."""
    lines = itertools.islice(lines, config.skip_rows, None)
    first = next(lines, None)
    if first is None:
        return dialect, lines
    said = None if isinstance(first[1], LongLine) else _SEP.fullmatch(first[1].removeprefix(BOM))
    if said is None:
        return dialect, itertools.chain([first], lines)
    delimiter = said[1].decode("latin-1")
    if config.delimiter not in ("auto", delimiter):
        raise ObjectError(
            uri, f"its first line says sep={delimiter}, corpus.csv.delimiter {config.delimiter!r}; correct the setting"
        )
    return replace(dialect, delimiter=delimiter), lines


def mend_of_header(header: Sequence[str], dialect: Dialect, wanted: str) -> str | None:
    """The setting by which a header has a column of that name; None: none that is known."""
    line = dialect.delimiter.join(header)
    for delimiter in _DELIMITERS:
        if delimiter != dialect.delimiter and wanted in _cells(line, replace(dialect, delimiter=delimiter)):
            return f"it is delimited by {_NAMES.get(delimiter, delimiter)!r}: set corpus.csv.delimiter: {_yaml(delimiter)}"
    if not dialect.skip_blanks and wanted in (name.strip(" ") for name in header):
        return "there are blanks around its names: set corpus.csv.skip_blanks: true"
    for quote in _QUOTES:
        if quote != dialect.quote and wanted in (name.strip(quote) for name in header):
            return f"its names are quoted: set corpus.csv.quote: {_yaml(quote)}"
    return None


def _cells(line: str, dialect: Dialect) -> list[str]:
    try:
        return next(dialect.records(iter([line])), [])
    except csv.Error:
        return []


def _yaml(character: str) -> str:
    return {"\t": '"\\t"', "'": '"\'"'}.get(character, f"'{character}'")

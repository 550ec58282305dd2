"""Whether the beginning of a CSV object reads well by the settings, and which setting mends it if not. Pure.

Only what a whole object is refused for is looked for here: a header that lacks a wanted column and has it by another
setting, or records none of which fits the header. A single bad record is its own affair.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from workers.config import CorpusConfig
from workers.errors import ObjectError
from workers.reading.formats.csv_dialect import Dialect, dialect_of, first_lines, mend_of_header
from workers.reading.lines import BOM, CR_ALONE, cr_alone

_PREAMBLE_LINES = 50  # in which a header is looked for


class _Sample(NamedTuple):
    """Records of the beginning; `broken`: it ended with one that is not CSV."""

    records: list[list[str]]
    broken: bool

    def fits(self, width: int) -> bool:
        return not self.broken and bool(self.records) and all(len(record) == width for record in self.records)


def csv_error(head: bytes, complete: bool, uri: str, corpus: CorpusConfig) -> str | None:
    """Why the object is refused, and the mend. None: nothing to say against it."""
    if cr_alone(head, complete):
        return CR_ALONE
    lines = head.removeprefix(BOM).split(b"\n")
    whole = [line + b"\n" for line in (lines if complete else lines[:-1])]
    try:
        dialect, below = first_lines(
            iter([(at, line) for at, line in enumerate(whole)]), dialect_of(uri, corpus.csv), corpus.csv, uri
        )
    except ObjectError as error:
        return error.reason
    text = [line.decode(dialect.encoding, "replace") for _, line in below if isinstance(line, bytes)]
    found = _sample(text, dialect)
    if not found.records:
        return None
    names = corpus.csv.columns or found.records[0]
    data = _Sample(found.records[1:] if corpus.csv.header else found.records, found.broken)
    wanted = [name for name in [corpus.id, *corpus.text] if name and name not in names and f"/{name}=" not in uri]
    if wanted:
        mend = _mend_of_names(names, text, dialect, wanted[0], corpus)
        return f"has no column {wanted[0]!r}, only {', '.join(map(repr, names))[:200]}; {mend}" if mend else None
    return _mend_of_records(names, data, text, dialect, corpus)


def _sample(text: Sequence[str], dialect: Dialect) -> _Sample:
    records: list[list[str]] = []
    try:
        records.extend(record for record in dialect.records(iter(text)) if record)
    except csv.Error as error:
        return _Sample(records, broken="unexpected end of data" not in str(error))
    return _Sample(records, broken=False)


def _mend_of_names(
    names: Sequence[str], text: Sequence[str], dialect: Dialect, wanted: str, corpus: CorpusConfig
) -> str | None:
    if corpus.csv.columns:
        return None
    mend = mend_of_header(names, dialect, wanted)
    if mend:
        return mend
    for at, line in enumerate(text[:_PREAMBLE_LINES]):
        cells = _sample([line], dialect).records
        if cells and (wanted in cells[0] or mend_of_header(cells[0], dialect, wanted)):
            skipped = corpus.csv.skip_rows + at
            return f"its header seems to be line {skipped + 1}: set corpus.csv.skip_rows: {skipped}"
    if any(name.replace(".", "", 1).isdecimal() for name in names):
        return "its first line holds values, not names: set corpus.csv.header: false, and corpus.csv.columns to their names"
    return None


def _mend_of_records(
    names: Sequence[str], data: _Sample, text: Sequence[str], dialect: Dialect, corpus: CorpusConfig
) -> str | None:
    width, header = len(names), int(corpus.csv.header)
    if data.fits(width) and not any(dialect.looks_quoted(cell) for record in data.records for cell in record):
        return None
    if dialect.wary and _sample(text[header:], replace(dialect, quote='"', wary=False)).fits(width):
        return "its fields are quoted, and quotes in .tsv are text: set corpus.csv.quote: '\"'"
    escaped = f"\\{dialect.quote}" if dialect.quote else "\\"
    by_escape = replace(dialect, escape="\\", wary=False)
    if not dialect.escape and any(escaped in line for line in text) and _sample(text[header:], by_escape).fits(width):
        return "its quotes are escaped by a backslash: set corpus.csv.escape: '\\'"
    widths = {len(record) for record in data.records}
    if len(widths) == 1 and width not in widths and not data.broken:
        (wide,) = widths
        trailing = wide == width + 1 and all(not record[-1] for record in data.records)
        why = "each ends with a delimiter" if trailing else f"each has {wide} fields"
        example = f": set corpus.csv.columns: [{', '.join([*names, '_'])}]" if trailing else "; see corpus.csv"
        return f"none of its records fits its header of {width} fields, {why}{example}"
    return None

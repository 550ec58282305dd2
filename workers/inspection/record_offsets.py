"""Where records begin in a big line object: one streaming pass for exact borders and their row numbers.

The pass is the replicas' own splitter and CSV reader, so a border is where they would begin and a row number is what they
would count, malformed records and quoted line breaks included. Memory is one batch, whatever the object's size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from workers.config import CorpusConfig, SourceFormat
from workers.errors import ObjectError
from workers.reading.formats.csv import read_csv
from workers.reading.lines import LINE_OVERHEAD, LongLine, is_blank, split_lines
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

log = logging.getLogger("reembed")


class Border(NamedTuple):
    """Byte offset at which a record begins, and its row number (None: not known, or the object's end)."""

    offset: int
    row: int | None


def find_borders(piece: ObjectSlice, kind: SourceFormat, wanted: Sequence[int], config: CorpusConfig) -> list[Border]:
    """The start of `piece` (a whole object), then the first record at or after each wanted offset, with its row number.

    An object that cannot be scanned (changed, no usable header) has one border only: its replica meets the same error and
    reports it.

    Raises:
        TransientError, UsageError: the store failed.
    """
    borders = [Border(0, 0)]
    try:
        with SourceStream.open(piece, config.storage_options, exact=False) as stream:
            starts = _csv_starts if kind is SourceFormat.CSV else _line_starts
            left = iter(wanted)
            target = next(left, None)
            for row, offset in enumerate(starts(stream, piece, config)):
                if target is None:
                    break
                if offset >= target:
                    borders.append(Border(offset, row))
                    while target is not None and target <= offset:
                        target = next(left, None)
    except ObjectError as error:
        log.warning("%s: it is not split", error)
        return [Border(0, 0)]
    return borders


def _line_starts(stream: SourceStream, _piece: ObjectSlice, config: CorpusConfig) -> Iterator[int]:
    """Offsets of the lines of JSONL and text that are rows."""
    for offset, line in split_lines(stream.read, 0, None, config.max_text_bytes + LINE_OVERHEAD):
        if isinstance(line, LongLine) or not is_blank(line):
            yield offset


def _csv_starts(stream: SourceStream, piece: ObjectSlice, config: CorpusConfig) -> Iterator[int]:
    plan = ReadPlan(config.model_copy(update={"id": None, "keep": []}), pa.string(), pa.schema([]))
    for rows in read_csv(stream, piece, plan, None):
        yield from rows.offsets or ()

"""JSON lines -> SourceRows: one object a line, parsed by Python's json (NaN and Infinity are accepted as it accepts them).

    line -> UTF-8 -> dict -> the wanted keys, column by column -> Arrow (workers/reading/json_columns.py)

A row is quarantined when its line is not UTF-8, not JSON or no object, or for what json_columns.py says. Blank lines are no
rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from workers.config import CorpusConfig, SourceFormat
from workers.reading.formats.json_shape import lines_error
from workers.reading.formats.traits import FormatTraits, HeadSample, Split, always
from workers.reading.json_columns import json_converter, parse_object
from workers.reading.line_records import Record, gather, line_starts, mean_line_bytes, too_long
from workers.reading.lines import BOM, CR_ALONE, LINE_OVERHEAD, LongLine, cr_alone, is_blank, read_lines
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream


def read_jsonl(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Raises: ObjectError (compressed stream damaged), TransientError."""
    records = _records(stream, piece, plan, compression)
    yield from gather(records, stream, piece, compression, json_converter(piece, plan))


def sample_lines(head: bytes, complete: bool, _uri: str, _corpus: CorpusConfig) -> HeadSample | None:
    """Keys of the first records. Malformed lines are left out: the reader will quarantine them, row by row."""
    lines = head.removeprefix(BOM).split(b"\n")
    records: list[dict[str, Any]] = []
    for line in lines if complete else lines[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    names = tuple(dict.fromkeys(name for record in records for name in record))
    return HeadSample(names, exact=False, records=records) if records else None


def _error(head: bytes, complete: bool, _uri: str, _corpus: CorpusConfig) -> str | None:
    return CR_ALONE if cr_alone(head, complete) else lines_error(head)


def _records(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
    for offset, line in read_lines(stream, piece, compression, plan.corpus.max_text_bytes + LINE_OVERHEAD):
        if isinstance(line, LongLine):
            yield offset, 0, too_long(line.size, plan)
        elif not is_blank(line):
            yield offset, len(line), parse_object(line.rstrip(b"\r\n"), "line")


TRAITS = FormatTraits(
    format=SourceFormat.JSONL,
    title="JSONL",
    suffixes=(".jsonl", ".ndjson"),
    read=read_jsonl,
    random_access=False,
    split=always(Split.RECORDS),
    record_starts=line_starts,
    enter_anywhere=True,
    empty_has_no_rows=True,
    sample=sample_lines,
    examine=_error,
    record_bytes=mean_line_bytes,
)

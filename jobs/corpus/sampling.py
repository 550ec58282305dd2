"""Which columns line formats hold, guessed from the first records of a few objects spread over the listing.

JSONL and CSV carry no schema. Up to SAMPLE_OBJECTS objects are opened at their start, never all: planning ten thousand small
objects stays one listing. A JSONL sample proves that a column exists, not that it is missing; a CSV header proves both.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from jobs.corpus.footers import read_range
from jobs.corpus.listing import SourceObject
from jobs.corpus.schema import Columns
from workers.config import CorpusConfig, SourceFormat
from workers.reading.formats.traits import delimiter_of
from workers.reading.lines import BOM

SAMPLE_OBJECTS = 16
SAMPLE_BYTES = 256 << 10  # of compressed bytes fetched and of decompressed records looked at, for each sampled object
MOST_LEVELS = 32  # of a kept value's nesting; what is nested deeper is kept as text
TEXT_COLUMN = "text"  # the one column of a plain-text corpus
log = logging.getLogger("reembed")


def sample_columns(objects: Sequence[SourceObject], config: CorpusConfig) -> tuple[dict[int, Columns], list[str]]:
    """Columns of the sampled objects, by position in `objects`, and remarks. Plain text has one column, unseen.

    An object whose start cannot be decompressed or parsed says nothing here; its replica will say what is wrong with it.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    found: dict[int, Columns] = {}
    chosen: list[int] = []
    for kind in (SourceFormat.JSONL, SourceFormat.CSV):
        filled = [at for at, source in enumerate(objects) if source.format is kind and source.info.size > 0]
        step = max(1, len(filled) / SAMPLE_OBJECTS)
        chosen += [filled[int(turn * step)] for turn in range(min(SAMPLE_OBJECTS, len(filled)))]
    if any(source.format is SourceFormat.TEXT for source in objects):
        plain = Columns({TEXT_COLUMN: pa.string()}, (TEXT_COLUMN,), exact=True)
        found |= {at: plain for at, source in enumerate(objects) if source.format is SourceFormat.TEXT}
    if not chosen:
        return found, []
    with ThreadPoolExecutor(max_workers=SAMPLE_OBJECTS) as pool:
        heads = list(pool.map(lambda at: _head(objects[at], config), chosen))
    records: list[tuple[int, list[dict[str, Any]]]] = []
    for at, (head, complete) in zip(chosen, heads, strict=True):
        if objects[at].format is SourceFormat.CSV:
            if names := _csv_header(head, objects[at].info.uri):
                found[at] = Columns(dict.fromkeys(names, pa.string()), names, exact=True)
        elif rows := list(_json_records(head, complete)):
            records.append((at, rows))
    types, remarks = _pooled_types([row for _, rows in records for row in rows], config.keep)
    for at, rows in records:
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        found[at] = Columns({name: types.get(name, pa.string()) for name in names}, names, exact=False)
    return found, remarks


def _head(source: SourceObject, config: CorpusConfig) -> tuple[bytes, bool]:
    """The object's first decompressed bytes, and whether they are all of it."""
    fetched = min(source.info.size, SAMPLE_BYTES)
    try:
        data = read_range(source.info.uri, 0, fetched, config.storage_options)
    except FileNotFoundError:
        return b"", True
    if source.compression is None:
        return data, fetched == source.info.size
    return decompressed_head(data, source.compression, SAMPLE_BYTES), False


def decompressed_head(data: bytes, codec: Any, limit: int) -> bytes:
    """At most `limit` bytes of what a compressed stream's beginning holds; the stream may be cut, or break, anywhere."""
    head = bytearray()
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        while len(head) < limit:
            try:
                piece = stream.read(min(limit - len(head), 16 << 10))
            except OSError as error:  # the cut: what came before it is good
                log.debug("sample ends after %d bytes: %s", len(head), error)
                break
            if not piece:
                break
            head += piece
    return bytes(head)


def _json_records(head: bytes, complete: bool) -> Iterator[dict[str, Any]]:
    lines = head.removeprefix(BOM).split(b"\n")
    for line in lines if complete else lines[:-1]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # malformed lines are the reader's to quarantine, row by row
            continue
        if isinstance(record, dict):
            yield record


def _csv_header(head: bytes, uri: str) -> tuple[str, ...]:
    text = head.removeprefix(BOM).decode("utf-8", "replace")
    return tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(uri)), ()))


def _pooled_types(records: Sequence[dict[str, Any]], keep: Sequence[str]) -> tuple[dict[str, pa.DataType], list[str]]:
    """One type a kept column over all samples: what pyarrow infers, from the commonest kind where values disagree."""
    types: dict[str, pa.DataType] = {}
    remarks: list[str] = []
    for name in keep:
        values = [record[name] for record in records if record.get(name) is not None]
        found = _inferred(values)
        if found is None:
            kinds = [kind for kind, _ in Counter(map(type, values)).most_common()]
            found = _inferred([value for value in values if type(value) is kinds[0]]) or pa.string()
            why = f"of several kinds ({', '.join(kind.__name__ for kind in kinds)})" if len(kinds) > 1 else "of no one type"
            remarks.append(
                f"corpus.keep: JSON values of {name} are {why}; "
                f"taken as {found}, rows that do not fit will be quarantined: write one kind, or leave it out of keep"
            )
        types[name] = found
    return types, remarks


def _inferred(values: list[Any]) -> pa.DataType | None:
    try:
        return _storable(pa.array(values).type, MOST_LEVELS)
    except (pa.ArrowException, OverflowError, ValueError, TypeError, RecursionError):
        return None


def _storable(inferred: pa.DataType, levels: int) -> pa.DataType:
    """Empty lists and objects carry no type, and Parquet holds no empty struct: strings stand in.

    Raises:
        ValueError: nested deeper than `levels`.
    """
    if not levels:
        raise ValueError("nested too deeply")
    if pa.types.is_null(inferred):
        return pa.string()
    if pa.types.is_list(inferred):
        return pa.list_(_storable(inferred.value_type, levels - 1))
    if pa.types.is_struct(inferred):
        fields = [inferred.field(at) for at in range(inferred.num_fields)]
        return pa.struct([field.with_type(_storable(field.type, levels - 1)) for field in fields]) if fields else pa.string()
    return inferred

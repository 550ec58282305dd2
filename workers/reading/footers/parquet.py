"""Parquet footers: which bytes they are, and what they say, if that makes sense.

    fetch_footer    one request for the object's end, two for a footer beyond 64 KiB; never a data page
    parse_footers   parse -> does it agree with itself? -> rows and text bytes of each row group, names, types of columns

The end of an object alone is a valid Parquet file to a metadata parser: it looks for the footer from the end, and does not
follow the footer's offsets into the data. A footer has no checksum. One with a flipped bit can still be parsed, and then
promises other rows or points into another column; so its figures are compared with each other first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.reading.footers.facts import MAX_FOOTER_BYTES, TAIL_BYTES, FooterBytes, FooterFacts, ReadRange
from workers.reading.footers.table_columns import names_in_file
from workers.records.pinned_table import TableColumn

INT96_UNIT = "us"  # in which INT96 timestamps are read: workers/reading/typed/int96.py
MOST_BYTES = 1 << 48  # of text in one row group: beyond it a size is damage, and sums would leave 64 bits
_TRAILER = 8  # four bytes of length, then PAR1
_SIGNATURE = 28  # bytes of nonce and tag behind a plain footer whose file has encrypted columns


def fetch_footer(read: ReadRange, size: int) -> FooterBytes | str:
    """The object's end from the footer's first byte on. Raises what `read` raises."""
    if size < _TRAILER + 4:
        return "too small for a Parquet file" if size else "zero bytes, not a Parquet file"
    tail = read(max(0, size - TAIL_BYTES), size)
    if tail[-4:] != b"PAR1":
        return "its footer is encrypted" if tail[-4:] == b"PARE" else "it does not end as a Parquet file does (cut off?)"
    needed = int.from_bytes(tail[-_TRAILER:-4], "little") + _TRAILER
    if needed > min(size, MAX_FOOTER_BYTES):
        return f"its footer claims {needed} bytes of {size}"
    if needed > len(tail):
        tail = read(size - needed, size)
    return (tail[-needed:],)


def parse_footers(
    footers: Sequence[tuple[FooterBytes, int]],
    text: Sequence[str],
    others: Sequence[str],
    columns: Sequence[TableColumn] = (),
) -> list[FooterFacts | str]:
    """What each footer says of these columns, or the problem with it.

    Args:
        footers: what fetch_footer gave, and the size of the whole object.
        text, others: top-level columns that will be read.
        columns: of the objects' table, which has names of its own for them: `text`, `others` and what is returned are those.
    """
    return [_parse(footer, size, text, others, columns) for (footer,), size in footers]


def missing_columns(metadata: Any) -> str | None:
    """The problem with a footer whose row groups do not list every column of its schema; None: they do."""
    for number in range(metadata.num_row_groups):
        listed = metadata.row_group(number).num_columns
        if listed != metadata.num_columns:
            return f"row group {number} lists {listed} columns where the schema has {metadata.num_columns}"
    return None


def _parse(
    footer: bytes, object_bytes: int, text: Sequence[str], others: Sequence[str], columns: Sequence[TableColumn]
) -> FooterFacts | str:
    try:
        file = pq.ParquetFile(pa.BufferReader(footer), coerce_int96_timestamp_unit=INT96_UNIT)
        metadata, schema = file.metadata, file.schema_arrow
        names = tuple(schema.names)  # raises where one is not UTF-8
        stored: dict[str, str] = {}
        if columns:
            try:
                stored = names_in_file(schema, columns)
            except ValueError as error:
                return str(error)
            text = [stored[name] for name in text if name in stored]
            others = [stored[name] for name in others if name in stored]
        if len(footer) - _TRAILER - metadata.serialized_size == _SIGNATURE:
            hidden = [name for name in dict.fromkeys((*text, *others)) if name in names and _encrypted(file, name)]
            if hidden:
                return f"column {', '.join(map(repr, hidden))} is encrypted: decrypt it; encrypted Parquet is not read"
        groups = _groups(metadata, object_bytes - len(footer), set(text), {*text, *others})
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
        return f"its footer cannot be parsed: {' '.join(str(error).split())[:200]}"
    if isinstance(groups, str):
        return f"its footer is corrupt: {groups}"
    types = {field.name: field.type for field in schema if field.name in {*text, *others}}
    if columns:
        return FooterFacts(groups, {name: types[own] for name, own in stored.items() if own in types}, tuple(stored))
    return FooterFacts(groups, types, names)


def _encrypted(file: Any, name: str) -> bool:
    """Whether a column is encrypted. pyarrow's accessors of such a column end the process; a read raises instead."""
    try:
        file.read_row_groups(range(min(1, file.num_row_groups)), columns=[name], use_threads=False)
    except (pa.ArrowException, OSError) as error:  # the pages are not in the footer: other errors are expected
        return "Cannot decrypt" in str(error)
    return False


def _groups(metadata: Any, data_bytes: int, text: set[str], wanted: set[str]) -> tuple[tuple[int, int], ...] | str:
    """(rows, text bytes) of each row group, or what does not agree."""
    leaves = [(at, _root(metadata.schema.column(at).path, wanted)) for at in range(metadata.num_columns)]
    read = [(at, root, metadata.schema.column(at).max_repetition_level > 0) for at, root in leaves if root is not None]
    problem = missing_columns(metadata)
    if problem:  # a column that is not listed cannot be looked at
        return problem
    groups: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows, size = group.num_rows, 0
        for at, root, repeated in read:
            chunk = group.column(at)
            values, start = chunk.num_values, _start(chunk)
            if values < rows or (values > rows and not repeated):
                return f"row group {number} has {rows} rows, its column {root!r} {values} values"
            if not values:
                continue  # not every writer bothers to say where nothing lies
            if not 0 <= start <= start + chunk.total_compressed_size <= data_bytes:
                return f"column {root!r} of row group {number} lies outside of the object's data"
            if not 0 <= chunk.total_uncompressed_size < MOST_BYTES:
                return f"column {root!r} of row group {number} claims {chunk.total_uncompressed_size} bytes"
            spans.append((start, start + chunk.total_compressed_size))
            size += chunk.total_uncompressed_size if root in text else 0
        groups.append((rows, size))
    total = sum(rows for rows, _ in groups)
    # Every reader goes by the row groups; early versions of parquet-rs left the total at 0
    if metadata.num_rows not in (total, 0) or any(rows < 0 for rows, _ in groups):
        return f"it promises {metadata.num_rows} rows, and {total} in its row groups"
    spans.sort()
    if any(end > after for (_, end), (after, _) in pairwise(spans)):
        return "two of its columns lie in the same place"
    return tuple(groups)


def _root(path: str, wanted: set[str]) -> str | None:
    """The wanted top-level column that a leaf belongs to; names may hold dots themselves."""
    return next((name for name in wanted if path == name or path.startswith(f"{name}.")), None)


def _start(chunk: Any) -> int:
    """Of the first page: the dictionary's, where there is one."""
    data = int(chunk.data_page_offset)
    dictionary = int(chunk.dictionary_page_offset or 0) if chunk.has_dictionary_page else 0
    return dictionary if 0 < dictionary < data else data

"""Bytes of a Parquet footer -> what it says, if that makes sense. Runs in an isolated process.

    parse -> does it agree with itself? -> rows and text bytes of each row group, names, types of the wanted columns

A footer has no checksum. A flipped bit in it can still be parsed, and then promises other rows or points into another
column; so its figures are held against each other first. Imports nothing but pyarrow: the process aside starts with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

MOST_BYTES = 1 << 48  # of text in one row group: beyond it a size is damage, and sums would leave 64 bits


class FooterTold(NamedTuple):
    """What a footer says; `groups` holds rows and uncompressed bytes of text of each row group."""

    groups: tuple[tuple[int, int], ...]
    types: dict[str, pa.DataType]
    names: tuple[str, ...]


def parse_footers(
    footers: Sequence[tuple[bytes, int]], text: Sequence[str], others: Sequence[str]
) -> list[FooterTold | str]:
    """What each footer says of these columns, or the problem with it.

    Args:
        footers: the end of each object, from the footer's first byte on, and the size of the whole object.
        text, others: top-level columns that will be read.
    """
    return [_parse(footer, size, text, others) for footer, size in footers]


def _parse(footer: bytes, object_bytes: int, text: Sequence[str], others: Sequence[str]) -> FooterTold | str:
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        schema = metadata.schema.to_arrow_schema()
        groups = _groups(metadata, object_bytes - len(footer), set(text), {*text, *others})
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        return f"its footer cannot be parsed: {' '.join(str(error).split())[:200]}"
    if isinstance(groups, str):
        return f"its footer is corrupt: {groups}"
    types = {field.name: field.type for field in schema if field.name in {*text, *others}}
    return FooterTold(groups, types, tuple(schema.names))


def _groups(metadata: Any, data_bytes: int, text: set[str], wanted: set[str]) -> tuple[tuple[int, int], ...] | str:
    """(rows, text bytes) of each row group, or what does not agree."""
    leaves = [(at, _root(metadata.schema.column(at).path, wanted)) for at in range(metadata.num_columns)]
    read = [(at, root, metadata.schema.column(at).max_repetition_level > 0) for at, root in leaves if root is not None]
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
    if total != metadata.num_rows or any(rows < 0 for rows, _ in groups):
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

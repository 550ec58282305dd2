"""The catalog of an index: one table that says which rows of which source parts each file stands for.

It is runs/<run_id>/tables/files.parquet. One row for each file and each source part that it holds rows of, so who reads it
needs no other file of the job: docs/search.md shows it to readers without reembed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

CATALOG = "files"  # name of the table
SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # name within the folder
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("vectors", pa.int64(), nullable=False),  # in the file
        pa.field("part", pa.string(), nullable=False),  # of the source, relative to its root, as it was then
        pa.field("part_sha256", pa.string(), nullable=False),
        pa.field("part_first", pa.int64(), nullable=False),  # the row of a key less this is the row within the part
        pa.field("first", pa.int64(), nullable=False),  # rows of the part that are in this file: the first of them
        pa.field("rows", pa.int64(), nullable=False),  # and their number
        pa.field("dim", pa.int32(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),  # f32, f16, bf16, i8
        pa.field("connectivity", pa.int32(), nullable=False),
        pa.field("expansion_search", pa.int32(), nullable=False),  # with which the recall was measured
        pa.field("tokens", pa.bool_(), nullable=False),  # keys are row << 16 | number of the token
    ]
)


@dataclass(frozen=True, slots=True)
class FileOfIndex:
    """A file and the rows of its shard that it holds: `first_row` to `first_row + rows`."""

    name: str
    bytes: int
    sha256: str
    vectors: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class PartOfShard:
    """A part of the source, and its first row within its shard."""

    path: str
    sha256: str
    first_row: int
    rows: int


def catalog_rows(file: FileOfIndex, parts: Sequence[PartOfShard]) -> list[dict[str, Any]]:
    """The file's rows of the catalog, without what is the same in all of them."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        first = max(part.first_row, file.first_row)
        stop = min(part.first_row + part.rows, file.first_row + file.rows)
        if first < stop:
            rows.append(
                {
                    "file": file.name,
                    "bytes": file.bytes,
                    "sha256": file.sha256,
                    "vectors": file.vectors,
                    "part": part.path,
                    "part_sha256": part.sha256,
                    "part_first": part.first_row,
                    "first": first - part.first_row,
                    "rows": stop - first,
                }
            )
    return rows

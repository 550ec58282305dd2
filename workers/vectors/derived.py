"""The last pass: files of a shard, derived from its rows. Parts stand in the derived output where the source's parts stand.

    WriteStep        files(rows, desk) -> the files of one shard, on the local disk
    AlignedColumns   one part for each of the source: its id, chunk, text_hash and kept columns, and what the step adds
    DerivedStamp     what every footer says of the origin
    Desk             what a WriteStep needs beside the rows

Rows keep the source's order, so a reader may join by position as well as by id and chunk.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers import __version__
from workers.records.shard import Assignment
from workers.storage.store import Store
from workers.table.part_file import ROW_GROUP_ROWS, PartReader, open_part, path_in_run, write_columns
from workers.table.schema import CHUNK, EMBEDDING, PARTITION_VALUES, PREFIX, TOKENS, OutputSchema
from workers.vectors.shard_rows import PartSpan, ShardRows

OF_THE_MODEL = frozenset({EMBEDDING, TOKENS, "num_tokens", "truncated", "chunk_start", "chunk_end"})
"""Columns of the source that say how a row was embedded: a part of other columns does not repeat them."""


@dataclass(frozen=True, slots=True)
class DerivedStamp:
    """The job and the snapshot that it was made from. `facts`: of the job, for instance a digest of its state."""

    run_id: str
    job: str
    source_run_id: str
    source_uri: str  # without credentials
    facts: Mapping[str, str] = field(default_factory=dict)
    code_version: str = __version__

    def footer(self) -> dict[str, str]:
        """Entries of a part's footer."""
        raw = asdict(self)
        return {PREFIX + name: value for name, value in ({**raw, **raw.pop("facts")}).items() if isinstance(value, str)}


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a shard's files are made."""

    source: Store
    schema: OutputSchema  # of the source
    assignment: Assignment
    stamp: DerivedStamp
    source_run: str
    folder: Path  # on the local disk, for this attempt alone

    def path_of(self, part: PartSpan) -> str:
        """Where a part of the source stands in the derived run. Raises: ValueError: it is no part of this shard."""
        number = self.assignment.shard.number
        path = path_in_run(part.path, self.source_run, number, self.stamp.run_id, number)
        if path is None:
            raise ValueError(f"{part.path} is no part of shard {number} of {self.source_run}")
        return path

    def footer(self, part: PartSpan, values: str) -> dict[str, str]:
        """Of a part that stands for `part`; `values`: its partition values, as the source's footer has them."""
        return self.stamp.footer() | {
            PREFIX + "shard": str(self.assignment.shard.number),
            PREFIX + "epoch": str(self.assignment.epoch),
            PREFIX + "rows_digest": part.rows_digest,
            PARTITION_VALUES: values,
        }


@dataclass(frozen=True, slots=True)
class Made:
    """A finished file on the local disk. `path`: on the output, relative to its root."""

    local: Path
    path: str
    rows: int
    rows_digest: str
    footer: Mapping[str, str]


class WriteStep(ABC):
    """What the last pass writes of one shard. `columns`: as Step.columns."""

    columns: tuple[str, ...] = ()

    def footer(self) -> dict[str, str]:
        """What the job adds to the footer of every part."""
        return {}

    @abstractmethod
    def files(self, rows: ShardRows, desk: Desk) -> Iterator[Made]:
        """Deterministic. Raises: UsageError: the request is at fault; the job ends at once."""


class AlignedColumns(WriteStep):
    """A part for each part of the source, with columns added to those that name the row.

    With pooling=tokens every added column is a list, one value a token.
    """

    @abstractmethod
    def added(self) -> pa.Schema:
        """Names and types of the columns added, of one vector each."""

    @abstractmethod
    def values(self, rows: ShardRows, part: PartSpan) -> Sequence[pa.Array]:
        """[part.rows] each of the added columns."""

    def files(self, rows: ShardRows, desk: Desk) -> Iterator[Made]:
        for number, part in enumerate(rows.parts):
            with open_part(desk.source, part.path) as opened:
                names = [name for name in opened.schema.names if name not in OF_THE_MODEL | set(desk.schema.vectors)]
                kept = _read(opened, names)
                values = opened.footer.get(PARTITION_VALUES, json.dumps({}))
            added = [_by_row(cells, part.counts) for cells in self.values(rows, part)]
            fields = [declared.with_type(cells.type) for declared, cells in zip(self.added(), added, strict=True)]
            at = names.index(CHUNK) + 1 if CHUNK in names else 1
            schema = pa.schema([*list(kept.schema)[:at], *fields, *list(kept.schema)[at:]])
            table = pa.Table.from_arrays([*kept.columns[:at], *added, *kept.columns[at:]], schema=schema)
            local, footer = desk.folder / f"{number}.part", desk.footer(part, values)
            groups = [table.slice(first, ROW_GROUP_ROWS) for first in range(0, max(1, len(table)), ROW_GROUP_ROWS)]
            write_columns(local, groups, schema, lambda footer=footer: footer)  # type: ignore[misc]
            yield Made(local, desk.path_of(part), len(table), part.rows_digest, footer)


def _read(part: PartReader, names: Sequence[str]) -> pa.Table:
    batches = list(part.batches(ROW_GROUP_ROWS, names))
    return pa.Table.from_batches(batches, pa.schema([part.schema.field(name) for name in names]))


def _by_row(cells: pa.Array, counts: NDArray[np.int64] | None) -> pa.Array:
    if counts is None:
        return cells
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), cells)

"""What a table format is to the rest of the program: it tells which files it has, and takes those of a snapshot instead.

    TablePart      one part of a snapshot, with what its footer says of its values
    TableVersion   what the table holds at present
    TableWriter    one format: refuse what it cannot express, read the present version, commit another one

A commit replaces all files of the table by those of one run, in one version. It copies, writes and deletes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from workers.errors import UsageError
from workers.records.shard import OutputFile
from workers.table.column_statistics import ColumnStatistics


class TableChanged(UsageError):
    """Somebody else wrote to the table: what it holds is no snapshot of this output, and would be lost."""


@dataclass(frozen=True, slots=True)
class TablePart:
    """`values`: its partition values in full, by column. `statistics`: by column, without those of partitions."""

    file: OutputFile
    values: Mapping[str, str | None] = field(default_factory=dict)
    statistics: Mapping[str, ColumnStatistics] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableVersion:
    """`files`: path below OUTPUT -> bytes. `run_id`: the run that its writer, if it was this program, committed.

    `finished`: what follows a commit is done, too (finish).
    """

    number: int
    files: Mapping[str, int]
    run_id: str | None
    finished: bool


class TableWriter(Protocol):
    """One format. Nothing is kept between calls: the present version is read anew by each."""

    @property
    def folder(self) -> str:
        """Where its records lie, below OUTPUT: who deletes it gives the table up."""

    def refuse(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Raises: UsageError: a column that the format has no type or name for."""

    def refuse_parts(self, parts: Sequence[TablePart]) -> None:
        """Raises: UsageError: a partition value that the format cannot express."""

    def present(self) -> TableVersion | None:
        """None: there is no table. Raises: TableChanged: the records cannot be this program's. RunAborted: damaged."""

    def commit(
        self, version: int | None, run_id: str, schema: pa.Schema, partition_by: Sequence[str], parts: Sequence[TablePart]
    ) -> bool:
        """Make the parts of `run_id` the table's files, as the version after `version`; None: as its first.

        Returns:
            False if that version is there already: read the table again.
        Raises:
            TableChanged, RunAborted: as present().
        """

    def finish(self, version: int) -> None:
        """After the commit of that version: what readers go by, or are served by. Idempotent."""

    def tidy(self, kept: Sequence[str]) -> int:
        """Forget versions up to the last one whose run is not in `kept`; returns how many. Parts of that one are gone."""

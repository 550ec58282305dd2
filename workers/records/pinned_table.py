"""The table that a run reads: which snapshot of it, and how its data files are told to hold its columns.

Imports nothing: it is passed to the process that parses footers, which starts quickly.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table, and how its data files are told to hold it.

    By `field_id`, in files whose columns have ids; else by the first of `names` that a file has. `inner`: (path, field id)
    of the fields inside it, which a file with ids must have likewise.
    """

    name: str
    field_id: int | None
    names: tuple[str, ...]
    inner: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class PinnedTable:
    """The snapshot of a table that a run reads, however the table changes meanwhile.

    `columns`: of those that the run reads, where the files may have other names for them; () where the names are the same.
    `types`: (column, type in the notation of corpus.schema) of columns whose values are not in the files.
    """

    format: str
    uri: str  # without credentials
    version: str  # Delta: its number; Iceberg: the snapshot's id; a data set on disk: its fingerprint; hf://: the commit
    columns: tuple[TableColumn, ...] = ()
    types: tuple[tuple[str, str], ...] = ()

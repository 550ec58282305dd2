"""What a table is to the rest of the program: one snapshot, its columns, its live data files.

    TableSnapshot   what each format's module returns (delta.py, iceberg.py, lance.py, hf.py)
    library         a format's own library, imported when it is needed; missing: UsageError with the extra to install
    refused         what a library says of a table that it cannot open, in one line

The library reads the table's own records and nothing else. Data files are opened by the readers of workers/reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import pyarrow as pa

from jobs.corpus.listing import RowGroup
from workers.config import CorpusConfig, TableFormat
from workers.errors import UsageError
from workers.host.optional_package import optional_package
from workers.records.pinned_table import TableColumn
from workers.storage.objects import ObjectInfo
from workers.storage.uris import public_line, redact
from workers.table.partitions import Partitions

TITLES = {
    TableFormat.DELTA: "Delta table",
    TableFormat.ICEBERG: "Iceberg table",
    TableFormat.LANCE: "Lance table",
    TableFormat.HF: "Hugging Face data set",
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One live data file. `partitions`: columns whose value is in the table's records; `deleted`: deleted_rows.py.

    `info`, `row_groups`: of what only the table's own library opens, so that no listing and no footer tells them.
    """

    uri: str
    partitions: Partitions = ()
    deleted: str = ""
    info: ObjectInfo | None = None
    row_groups: tuple[RowGroup, ...] | None = None


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """One snapshot of a table."""

    format: TableFormat
    uri: str
    version: str
    files: Sequence[DataFile]
    folder: str | None = None
    """Where the data files lie, most of them at least; None: anywhere."""
    schema: pa.Schema | None = None
    """Its columns by their present names; None: the files alone tell them."""
    columns: Mapping[str, TableColumn] = field(default_factory=dict)
    """All of them, where data files may have other names for them; empty: they have not."""
    partition_columns: frozenset[str] = frozenset()
    """Columns whose values are in the table's records."""

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"corpus.uri {redact(self.uri)}: the {TITLES[self.format]} at version {self.version}"


def library(name: str, extra: TableFormat) -> ModuleType:
    """Raises: UsageError: it is not installed."""
    return optional_package(name, extra, f"corpus.table: {extra}")


def refused(config: CorpusConfig, error: Exception) -> UsageError:
    """What a table's library says of a table that it does not open."""
    kind = TITLES[TableFormat(config.table)] if config.table else "table"
    reason = public_line(error)
    return UsageError(
        f"corpus.uri {redact(config.uri[0])}: cannot be opened as {'an' if kind.startswith('I') else 'a'} {kind}: {reason}; "
        "check corpus.uri, corpus.table and corpus.table_options"
    )

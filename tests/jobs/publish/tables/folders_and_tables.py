"""What independent readers get: of the folder that CURRENT.json names, and of the table beside it.

register         makes the published snapshot a table
folder_rows      pyarrow, of data/<run_id>
delta_rows       deltalake (delta-rs), of the table
iceberg_rows     pyiceberg, of the table that version-hint.text names
polars_rows      Polars, by either table's records; read_delta, read_iceberg, read_polars: likewise, as Arrow tables
tables_agree     whether the table's files are those of CURRENT.json's run, where they lie
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

from jobs.driver.lock import DriverLock
from jobs.publish.tables.follow import settle
from workers.config import OutputTable
from workers.storage.store import Store

Rows = list[dict[str, Any]]


def register(output: Path, kind: OutputTable) -> None:
    store = Store(str(output), {})
    with DriverLock(store) as lock:
        settle(store, lock, kind, begin=True)


def current(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "CURRENT.json").read_text()))


def folder_rows(output: Path) -> Rows:
    """By id. Partition values are texts."""
    folder = output / current(output)["data_path"]
    files = sorted(folder.rglob("*.parquet"))
    names = {level.partition("=")[0] for file in files for level in file.relative_to(folder).parts[:-1]}
    hive = ds.partitioning(pa.schema([(name, pa.string()) for name in sorted(names)]), flavor="hive")
    return _by_id(ds.dataset(folder, format="parquet", partitioning=hive if names else None).to_table())


def delta_rows(output: Path, version: int | None = None) -> Rows:
    return _by_id(read_delta(output, version))


def read_delta(output: Path, version: int | None = None) -> pa.Table:
    return DeltaTable(output / "data", version=version).to_pyarrow_table()


def iceberg_rows(output: Path, snapshot: int | None = None) -> Rows:
    """As read_iceberg()."""
    return _by_id(read_iceberg(output, snapshot))


def read_iceberg(output: Path, snapshot: int | None = None) -> pa.Table:
    """`snapshot`: its place among those of the table; None: the present one."""
    table = StaticTable.from_metadata(str(output / "data"))
    wanted = None if snapshot is None else table.metadata.snapshots[snapshot].snapshot_id
    return table.scan(snapshot_id=wanted).to_arrow()


def table_rows(output: Path, kind: OutputTable) -> Rows:
    return delta_rows(output) if kind is OutputTable.DELTA else iceberg_rows(output)


def polars_rows(output: Path, kind: OutputTable) -> Rows:
    return _by_id(read_polars(output, kind))


def read_polars(output: Path, kind: OutputTable) -> pa.Table:
    if kind is OutputTable.DELTA:
        return polars.read_delta(str(output / "data"), use_pyarrow=True).to_arrow()
    hint = (output / "data/metadata/version-hint.text").read_text()
    path = str(output / f"data/metadata/v{hint}.metadata.json")
    return polars.scan_iceberg(path, reader_override="pyiceberg").collect().to_arrow()


def tables_agree(output: Path, kind: OutputTable) -> bool:
    folder = output / current(output)["data_path"]
    there = {str(path.relative_to(output / "data")) for path in folder.rglob("*.parquet")}
    if kind is OutputTable.DELTA:
        actions = pa.table(DeltaTable(output / "data").get_add_actions())
        return bool({unquote(path) for path in actions.column("path").to_pylist()} == there)
    files = StaticTable.from_metadata(str(output / "data")).inspect.files().column("file_path").to_pylist()
    return bool({path.removeprefix(f"{output}/data/") for path in files} == there)


def _by_id(table: pa.Table) -> Rows:
    return [dict(sorted(row.items())) for row in sorted(table.to_pylist(), key=lambda row: row["id"])]

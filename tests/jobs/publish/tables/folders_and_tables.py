"""What independent readers get: of the folder that CURRENT.json names, and of the table beside it.

    folder_rows      pyarrow, of data/<run_id>
    delta_rows       deltalake (delta-rs), of the table
    polars_rows      Polars' own reader, by the table's log
    tables_agree     whether the table's files are those of CURRENT.json's run, byte for byte where they lie
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

Rows = list[dict[str, Any]]


def current(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "CURRENT.json").read_text()))


def folder_rows(output: Path) -> Rows:
    """By id. Partition values are texts."""
    folder = output / current(output)["data_path"]
    files = sorted(folder.rglob("*.parquet"))
    names = {level.partition("=")[0] for file in files for level in file.relative_to(folder).parts[:-1]}
    hive = ds.partitioning(pa.schema([(name, pa.string()) for name in sorted(names)]), flavor="hive")
    return _by_id(ds.dataset(folder, format="parquet", partitioning=hive if names else None).to_table().to_pylist())


def delta_rows(output: Path, version: int | None = None) -> Rows:
    return _by_id(DeltaTable(output / "data", version=version).to_pyarrow_table().to_pylist())


def polars_rows(output: Path) -> Rows:
    return _by_id(polars.read_delta(str(output / "data")).to_dicts())


def tables_agree(output: Path) -> bool:
    folder = output / current(output)["data_path"]
    there = {str(path) for path in folder.rglob("*.parquet")}
    named = {unquote(uri.removeprefix("file://")) for uri in DeltaTable(output / "data").file_uris()}
    return bool(named == there)


def _by_id(rows: Rows) -> Rows:
    return [dict(sorted(row.items())) for row in sorted(rows, key=lambda row: row["id"])]

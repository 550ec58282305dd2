"""What `output.table` costs, and whether the table is the folder.

    python -m benchmarks.table_out OUTPUT [delta|iceberg] [--duckdb PYTHON] [--spark PYTHON --jar JAR …]

A copy of a published output is registered. Printed: CPU and wall seconds, bytes of the records, and whether the format's own
library (deltalake, pyiceberg) and Polars read what pyarrow reads of the folder, column by column. So do DuckDB and Spark, by
interpreters that have them (benchmarks/table_readers.py).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jobs.driver.lock import DriverLock
from jobs.publish.tables.follow import settle
from tests.jobs.publish.tables.folders_and_tables import read_delta, read_iceberg, read_polars
from workers.config import OutputTable
from workers.storage.store import Store

_ENGINES = ("duckdb", "spark")
_RECORDS = {OutputTable.DELTA: "data/_delta_log", OutputTable.ICEBERG: "data/metadata"}
_OWN: dict[OutputTable, Callable[[Path], pa.Table]] = {OutputTable.DELTA: read_delta, OutputTable.ICEBERG: read_iceberg}


def _sorted(table: pa.Table, like: pa.Schema) -> pa.Table:
    """Rows by id, and types as in `like`: readers of the table have lists where the folder has lists of a fixed size."""
    return table.select(like.names).cast(like).sort_by("id").combine_chunks()


def _elsewhere(
    engine: str, python: str, kind: OutputTable, data: Path, out: Path, jars: list[str]
) -> tuple[list[str], pa.Table]:
    """Versions and rows of an engine that runs under an interpreter of its own."""
    out.mkdir()
    script = Path(__file__).with_name("table_readers.py")
    command = [python, str(script), engine, kind.value, str(data), str(out), *(jars if engine == "spark" else ())]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1]), pq.read_table(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("kind", type=OutputTable, nargs="?", default=OutputTable.DELTA)
    for engine in _ENGINES:
        parser.add_argument(f"--{engine}", metavar="PYTHON", help=f"an interpreter that has {engine}")
    parser.add_argument("--jar", action="append", default=[], help="Spark's runtime for the format")
    arguments = parser.parse_args()
    output: Path = arguments.output
    kind: OutputTable = arguments.kind
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        copy = Path(folder, "out")
        shutil.copytree(output, copy)
        store = Store(str(copy), {})
        with DriverLock(store) as lock:
            began, cpu = time.perf_counter(), time.process_time()
            settle(store, lock, kind, begin=True)
            spent = {"seconds": round(time.perf_counter() - began, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
        data = copy / json.loads((copy / "CURRENT.json").read_text())["data_path"]
        rows = ds.dataset(data, format="parquet", partitioning="hive").to_table()
        flat = pa.schema([field.with_type(_plain(field.type)) for field in rows.schema])
        want = _sorted(rows, flat)
        own, theirs = (_sorted(read, flat) for read in (_OWN[kind](copy), read_polars(copy, kind)))
        told: dict[str, object] = {
            "table": kind.value,
            "rows": len(want),
            "own_library_same": own.equals(want),
            "polars_same": theirs.equals(want),
            "record_bytes": sum(path.stat().st_size for path in (copy / _RECORDS[kind]).iterdir()),
        }
        for engine in _ENGINES:
            if python := getattr(arguments, engine):
                read, found = _elsewhere(engine, python, kind, copy / "data", Path(folder, engine), arguments.jar)
                told[engine] = {"versions": read, "rows": len(found), "same": _sorted(found, flat).equals(want)}
        print(json.dumps(spent | told))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    return pa.binary() if pa.types.is_fixed_size_binary(kind) else kind


if __name__ == "__main__":
    main()

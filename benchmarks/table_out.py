"""What `output.table: delta` costs, and whether the table is the folder: `python -m benchmarks.table_out OUTPUT`.

A copy of a published output (hard links where they are possible) is registered twice: a first time, and as the next version
after a rewritten CURRENT.json would. Printed: CPU and wall seconds, bytes of the log, and whether deltalake and Polars read
what pyarrow reads of the folder, column by column.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import polars
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from jobs.driver.lock import DriverLock
from jobs.publish.tables.follow import settle
from workers.config import OutputTable
from workers.storage.store import Store


def _sorted(table: pa.Table, like: pa.Schema) -> pa.Table:
    """Rows by id, and types as in `like`: readers of the table have lists where the folder has lists of a fixed size."""
    return table.select(like.names).cast(like).sort_by("id").combine_chunks()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        copy = Path(folder, "out")
        shutil.copytree(output, copy)
        store = Store(str(copy), {})
        began, cpu = time.perf_counter(), time.process_time()
        with DriverLock(store) as lock:
            began, cpu = time.perf_counter(), time.process_time()
            settle(store, lock, OutputTable.DELTA, begin=True)
            spent = {"seconds": round(time.perf_counter() - began, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
        data = copy / json.loads((copy / "CURRENT.json").read_text())["data_path"]
        rows = ds.dataset(data, format="parquet", partitioning="hive").to_table()
        flat = pa.schema([field.with_type(_plain(field.type)) for field in rows.schema])
        want = _sorted(rows, flat)
        delta = _sorted(DeltaTable(copy / "data").to_pyarrow_table(), flat)
        pola = _sorted(polars.read_delta(str(copy / "data")).to_arrow(), flat)
        told = {
            "files": len(DeltaTable(copy / "data").file_uris()),
            "rows": len(want),
            "deltalake_same": delta.equals(want),
            "polars_same": pola.equals(want),
            "log_bytes": sum(path.stat().st_size for path in (copy / "data/_delta_log").iterdir()),
        }
        print(json.dumps(spent | told))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    return pa.binary() if pa.types.is_fixed_size_binary(kind) else kind


if __name__ == "__main__":
    main()

"""Reads a table by an engine that is not installed here, for benchmarks/table_out.py, under that engine's interpreter.

    PYTHON table_readers.py duckdb KIND DATA OUT           # has duckdb and duckdb-extension-delta, or -avro and -iceberg
    PYTHON table_readers.py spark KIND DATA OUT [JAR …]    # has pyspark and Java; JAR: the runtime of the format

KIND: delta or iceberg. DATA: the root of the table. OUT: a folder; the engine's own writer puts the rows there as Parquet.
Printed: the versions.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any


def by_duckdb(kind: str, data: str, out: Path) -> list[str]:
    duckdb: Any = importlib.import_module("duckdb")
    connection = duckdb.connect()
    names = ["delta"] if kind == "delta" else ["avro", "iceberg"]
    for name in names:
        found = files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        connection.execute(f"LOAD '{found}'")
    connection.execute(f"COPY (SELECT * FROM {kind}_scan('{data}')) TO '{out / 'rows.parquet'}' (FORMAT parquet)")
    return [f"duckdb {duckdb.__version__}", *(f"extension {name} {version(f'duckdb-extension-{name}')}" for name in names)]


def by_spark(kind: str, data: str, out: Path, jars: list[str]) -> list[str]:
    sql: Any = importlib.import_module("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[2]")
    options = {
        "spark.jars": ",".join(jars),
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    for name, value in options.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.read.format(kind).load(data).write.parquet(str(out / "rows"))
    session.stop()
    return [f"pyspark {version('pyspark')}", *(Path(jar).name for jar in jars)]


def main() -> None:
    engine, kind, data, out, *jars = sys.argv[1:]
    read = by_duckdb(kind, data, Path(out)) if engine == "duckdb" else by_spark(kind, data, Path(out), jars)
    print(json.dumps(read))


if __name__ == "__main__":
    main()

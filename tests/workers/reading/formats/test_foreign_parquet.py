"""Parquet by other writers, all columns kept: each value is what pyarrow reads; what pyarrow cannot read is named.

DuckDB, Polars, pandas and pyarrow write files here with every option and type that they have; pyarrow's test data too.
REEMBED_PARQUET_FILES=FOLDER:FOLDER adds the files of folders. Sets that are worth it, none of which is in a package, so a
checkout of its repository is needed: apache/parquet-testing (bad_data/, data/, shredded_variant/), duckdb/duckdb (data/,
test/), dask/fastparquet (test-data/), pola-rs/polars (py-polars/tests/), apache/arrow-testing (data/parquet/).

The text of every row comes from the object's folder, so that no file needs a column of texts.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import Corpus, discover
from jobs.planning.sharding import cut
from tests.jobs.source_files import config
from tests.workers.output_samples import stamp
from tests.workers.reading.any_arrow import meaning
from workers.errors import ObjectError, UsageError
from workers.reading.reader import read_windows
from workers.records.documents import DocumentWindow
from workers.table.schema import OUTPUT_COLUMNS, output_schema

ROWS = 500
SUFFIXES = {".parquet", ".parq", ".encrypted", ".crypto"}

DUCKDB = """
SELECT i::TINYINT AS tiny, i::USMALLINT AS usmall, i::BIGINT * 1234567890123 AS big, (i * 7)::UBIGINT AS ubig, i / 7 AS f,
       (i / 3)::FLOAT AS f32, (i % 2 = 0) AS flag, (i / 8)::DECIMAL(4, 1) AS d4, (i / 8)::DECIMAL(18, 3) AS d18,
       (i / 8)::DECIMAL(38, 10) AS d38, 'row ' || i AS words, ('row ' || i % 3) AS few, encode('b' || i) AS bytes,
       DATE '0001-01-01' + i::INT * 1000 AS day, TIME '00:00:00' + to_seconds(i) AS clock,
       TIMESTAMP '1500-01-01' + to_days(i::INT * 365) AS at, (TIMESTAMP '2000-01-01' + to_seconds(i))::TIMESTAMP_NS AS at_ns,
       (TIMESTAMP '2000-01-01' + to_seconds(i))::TIMESTAMP_MS AS at_ms, (TIMESTAMP '2000-01-01')::TIMESTAMPTZ AS at_tz,
       uuid() AS u, [i, NULL, i + 1] AS list, [['a'], []] AS lists, {'a': i, 'b': {'c': 'x' || i}} AS struct,
       MAP {'k' || i: i} AS map, [{'a': i}] AS structs, CASE WHEN i % 5 > 0 THEN i END AS holes, NULL::INTEGER AS nothing,
       ('v' || i % 4)::ENUM('v0', 'v1', 'v2', 'v3') AS enum, [1, 2]::INTEGER[2] AS pair, i::HUGEINT AS huge
FROM range(120) r(i)
"""


def by_duckdb(path: Path, options: str) -> None:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.sql(f"COPY ({DUCKDB}) TO '{path}' (FORMAT parquet, {options})")


def by_polars(path: Path, **options: Any) -> None:
    rows = range(ROWS)
    frame = pl.DataFrame(
        {
            "i": rows, "s": [f"s{row}" for row in rows], "f": [row / 7 for row in rows], "none": [None] * ROWS,
            "day": [dt.date(1, 1, 1) + dt.timedelta(row * 1000) for row in rows],
            "b": [b"x" * (row % 5) for row in rows],
            "at": [dt.datetime(9999, 1, 1) - dt.timedelta(row * 900) for row in rows],
            "l": [[row] * (row % 3) for row in rows],
            "st": [{"a": row, "b": [f"{row}"]} for row in rows], "clock": [dt.time(row % 24) for row in rows],
            "lasts": [dt.timedelta(seconds=row) for row in rows],
        }
    )  # fmt: skip
    frame = frame.with_columns(
        pl.col("s").cast(pl.Categorical).alias("cat"), pl.col("i").cast(pl.UInt8, strict=False).alias("u8"),
        pl.col("f").cast(pl.Decimal(20, 4)).alias("dec"), pl.col("at").dt.cast_time_unit("ms").alias("ms"),
    )  # fmt: skip
    frame.write_parquet(path, **options)


def by_pandas(path: Path, engine: Any = "pyarrow", **options: Any) -> None:
    frame = pd.DataFrame(
        {
            "i": np.arange(ROWS), "f": np.arange(ROWS) / 3,
            "s": [None if row % 7 == 0 else f"s{row}" for row in range(ROWS)],
            "at": pd.date_range("2000-01-01", periods=ROWS, freq="h"),
            "cat": pd.Categorical([row % 3 for row in range(ROWS)]),
            "flag": np.arange(ROWS) % 2 == 0, "nullable": pd.array([None, *range(1, ROWS)], "Int32"),
            "tz": pd.date_range("2000-01-01", periods=ROWS, freq="min", tz="Europe/Berlin"),
        }
    )  # fmt: skip
    frame.to_parquet(path, engine=engine, **options)


def by_fastparquet(path: Path, **options: Any) -> None:
    fastparquet = pytest.importorskip("fastparquet")
    rows = range(ROWS)
    frame = pd.DataFrame(
        {
            "i": np.arange(ROWS), "f": np.arange(ROWS) / 3, "f32": np.arange(ROWS, dtype=np.float32),
            "flag": np.arange(ROWS) % 2 == 0,
            "s": pd.Series([None if row % 7 == 0 else f"s{row}" for row in rows], dtype=object),
            "b": pd.Series([b"\xff" * (row % 4) for row in rows], dtype=object),
            "at": pd.date_range("2000-01-01", periods=ROWS, freq="h").astype("datetime64[ns]"),
            "cat": pd.Categorical([f"c{row % 3}" for row in rows]),
            "json": pd.Series([{"a": row} for row in rows], dtype=object),
            "nullable": pd.array([None, *range(1, ROWS)], "Int32"), "u8": np.arange(ROWS).astype(np.uint8),
        }
    )  # fmt: skip
    encodings = dict.fromkeys(frame.columns, "infer") | {"json": "json", "b": "bytes", "s": "utf8"}
    fastparquet.write(str(path), frame, object_encoding=encodings, **options)


def by_pyarrow(path: Path, **options: Any) -> None:
    rows = range(ROWS)
    table = pa.table(
        {
            "i": rows, "i8": pa.array([row % 100 for row in rows], pa.int8()), "f": [row / 7 for row in rows],
            "f32": pa.array([row / 2 for row in rows], pa.float32()), "s": [f"s {row % 50}" for row in rows],
            "b": pa.array([b"\xff" * (row % 4) for row in rows]), "flag": [row % 3 == 0 for row in rows],
            "holes": [None if row % 4 else row for row in rows], "l": [[row, None][: row % 3] for row in rows],
            "st": [{"a": row, "b": None if row % 2 else "x"} for row in rows],
            "deep": [[{"k": [row]}] for row in rows],
            "m": pa.array([[("k", row)] for row in rows], pa.map_(pa.string(), pa.int64())),
            "at": pa.array([row * 10**15 for row in rows], pa.timestamp("ns")),
            "fsb": pa.array([b"abc"] * ROWS, pa.binary(3)),
            "dec": pa.array(list(rows), pa.decimal128(20, 2)), "clock": pa.array(list(rows), pa.time64("us")),
        }
    )  # fmt: skip
    pq.write_table(table, path, **options)


WRITERS: dict[str, Callable[[Path], None]] = {}
for codec, version, size in itertools.product(
    ("uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"), ("V1", "V2"), (50, 122880)
):
    chosen = f"COMPRESSION {codec}, PARQUET_VERSION {version}, ROW_GROUP_SIZE {size}"
    WRITERS[f"duckdb {chosen}"] = lambda path, chosen=chosen: by_duckdb(path, chosen)  # type: ignore[misc]
for codec, pages in itertools.product(("uncompressed", "snappy", "gzip", "brotli", "lz4", "zstd"), (None, 1000)):
    chosen_of = {"compression": codec, "data_page_size": pages, "row_group_size": pages}
    WRITERS[f"polars {chosen_of}"] = lambda path, chosen=chosen_of: by_polars(path, **chosen)  # type: ignore[misc]
WRITERS["pandas"] = by_pandas
WRITERS["pandas gzip, index"] = lambda path: by_pandas(path, compression="gzip", index=True)
for codec, times, groups in itertools.product((None, "GZIP", "SNAPPY", "ZSTD"), ("int64", "int96"), ([0], [0, 100, 107])):
    chosen_of = {"compression": codec, "times": times, "row_group_offsets": groups}
    WRITERS[f"fastparquet {chosen_of}"] = lambda path, chosen=chosen_of: by_fastparquet(path, **chosen)  # type: ignore[misc]
OPTIONS: list[dict[str, Any]] = [
    *({"compression": codec} for codec in ("none", "snappy", "gzip", "brotli", "lz4", "zstd")),
    *({"version": version} for version in ("1.0", "2.4", "2.6")),
    *({"data_page_version": version, "compression": "zstd"} for version in ("1.0", "2.0")),
    {"use_dictionary": False}, {"use_dictionary": ["s"]}, {"dictionary_pagesize_limit": 100}, {"data_page_size": 512},
    {"row_group_size": 100}, {"write_page_checksum": True}, {"write_page_index": True}, {"store_schema": False},
    {"write_statistics": False}, {"coerce_timestamps": "ms", "allow_truncated_timestamps": True},
    {"use_deprecated_int96_timestamps": True}, {"use_compliant_nested_type": False}, {"max_rows_per_page": 10},
    {"use_content_defined_chunking": True}, {"write_batch_size": 7}, {"store_decimal_as_integer": True},
    {"use_dictionary": False, "column_encoding": {"i": "DELTA_BINARY_PACKED", "s": "DELTA_BYTE_ARRAY"}},
    {"use_dictionary": False, "column_encoding": {"f": "BYTE_STREAM_SPLIT", "f32": "BYTE_STREAM_SPLIT"}},
    {"use_dictionary": False, "column_encoding": {"s": "DELTA_LENGTH_BYTE_ARRAY", "i8": "BYTE_STREAM_SPLIT", "flag": "RLE"}},
    {"sorting_columns": [pq.SortingColumn(0)]},
]  # fmt: skip
for chosen_of in OPTIONS:
    WRITERS[f"pyarrow {chosen_of}"] = lambda path, chosen=chosen_of: by_pyarrow(path, **chosen)  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("writer", list(WRITERS))
def test_files_of_other_writers(tmp_path: Path, writer: str) -> None:
    folder = tmp_path / "in" / "zz_words=some words"
    folder.mkdir(parents=True)
    WRITERS[writer](folder / "a.parquet")
    assert compared(folder / "a.parquet") == "equal"


def found_files() -> dict[str, Path]:
    """Name below its folder -> file."""
    given = os.environ.get("REEMBED_PARQUET_FILES", "").split(os.pathsep)
    found = {}
    for folder in [Path(pa.__file__).parent / "tests", *map(Path, filter(None, given))]:
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and {".parquet", ".parq"} & set(path.suffixes) and path.is_file():
                found[str(path.relative_to(folder.parent))] = path
    return found


FOUND = found_files()


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_files_that_were_found(tmp_path: Path, name: str) -> None:
    path = FOUND[name]
    folder = tmp_path / "in" / "zz_words=some words"
    folder.mkdir(parents=True)
    copied = folder / f"{path.stem}.parquet"
    shutil.copy(path, copied)
    outcome = compared(copied)
    print(f"{name}: {outcome}")


def compared(path: Path) -> str:
    """`equal`, or the one line in which the object or the column is refused, with its name."""
    names: list[str] = []
    try:
        file = pq.ParquetFile(path, coerce_int96_timestamp_unit="us")
        names = [name for name in file.schema_arrow.names if name not in OUTPUT_COLUMNS]
        table = read_whole(file, names)
    except (pa.ArrowException, OSError, ValueError) as error:
        return refused(path, names, str(error))
    if len(set(table.schema.names)) < len(table.schema.names):
        return refused(path, names[:1], "two columns of one name")
    try:
        corpus = discover(config(path.parent.parent, text="zz_words", keep=names))
    except UsageError as error:
        return one_line(path, str(error))
    if corpus.drifted or corpus.objects[0].problem:
        return one_line(path, next(warning for warning in corpus.warnings if path.name in warning))
    try:
        output_schema(corpus.read_plan, stamp(), ())
    except UsageError as error:  # a column that Parquet cannot hold again, like a group without fields: named when planning
        return f"refused: {error}"  # in one line: UsageError never holds another
    place = 0
    lost = 0
    try:
        for window in windows(corpus):
            lost += len(window.quarantined)
            for row in window.quarantined:
                assert "INT96" in row.reason or "UTF-8" in row.reason or breaks_its_type(table, row.reason), row
            rows = window.table["row"].to_pylist()
            for name in names:
                for row, value in zip(rows, window.table[f"keep.{name}"], strict=True):
                    assert meaning(value) == meaning(table[name][row]), (name, row, value, table[name][row])
            place += len(rows)
    except ObjectError as error:
        with pytest.raises((pa.ArrowException, OSError)):  # what pyarrow reads by default is refused for its checksum alone
            pq.read_table(path, page_checksum_verification=True)
        return one_line(path, str(error))
    assert place + lost == table.num_rows
    return "equal" if not lost else f"equal but for {lost} rows quarantined of {table.num_rows}"


def read_whole(file: pq.ParquetFile, names: list[str]) -> pa.Table:
    """By pyarrow: all columns, else those that a run keeps (`id` is the output's own); row by row where it must be."""
    try:
        return file.read()
    except pa.ArrowNotImplementedError:
        return pa.Table.from_batches(file.iter_batches(1))
    except (pa.ArrowException, OSError):
        return file.read(names)


def breaks_its_type(table: pa.Table, reason: str) -> bool:
    """Whether the column that a reason names holds, by pyarrow's full check, what its type does not allow."""
    (name,) = re.findall(r"kept column (.*) holds a value that .* does not allow", reason)
    with pytest.raises(pa.ArrowInvalid):
        table[name].validate(full=True)
    return True


def refused(path: Path, keep: list[str], why: str) -> str:
    """pyarrow cannot read the object: planning or reading says so, in one line with its name."""
    try:
        corpus = discover(config(path.parent.parent, text="zz_words", keep=keep))
    except UsageError as error:
        return one_line(path, str(error))
    told = [warning for warning in corpus.warnings if path.name in warning]
    if told:
        return one_line(path, told[0])
    with pytest.raises(ObjectError) as error:
        _ = list(windows(corpus))
    return one_line(path, f"{error.value} ({why[:60]})")


def windows(corpus: Corpus) -> Iterator[DocumentWindow]:
    for shard in cut(corpus, 1 << 20, id_given=False):
        yield from read_windows(shard, corpus.read_plan, {})


def one_line(path: Path, told: str) -> str:
    assert "\n" not in told
    assert path.name in told
    return f"refused: {told}"

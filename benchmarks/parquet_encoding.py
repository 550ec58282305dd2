"""Compares encodings and compression levels for the embedding column: size, write and read seconds on given vectors.

    python -m benchmarks.parquet_encoding VECTORS.npy [--rows N] [--about TEXT] > results/parquet_encoding_<hw>.json

VECTORS is a float32 [N, D] .npy file, or the folder of a snapshot with float32 vectors. Every stored type is tried with
every encoding that Parquet has for it, and zstd levels 1, 3, 6, 9; medians of interleaved rounds. Prints JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from workers.config import LongText, Pooling, VectorType
from workers.table.part_file import ColumnEncoding, row_group_rows, write_part
from workers.table.schema import OutputSchema, SnapshotStamp
from workers.table.vectors import Floats, as_float32, calibrate_scale, to_arrow

LEVELS = (1, 3, 6, 9)
TRIED = {
    VectorType.FLOAT32: ("PLAIN", "BYTE_STREAM_SPLIT", "DICTIONARY"),
    VectorType.FLOAT16: ("PLAIN", "BYTE_STREAM_SPLIT", "DICTIONARY"),
    VectorType.INT8: ("PLAIN", "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DICTIONARY"),
    VectorType.BINARY: ("PLAIN", "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DICTIONARY"),
}


def load(source: Path, rows: int | None) -> Floats:
    """Float32 [N, D]."""
    if source.is_dir():
        column = ds.dataset(source, partitioning="hive").head(rows or sys.maxsize, columns=["embedding"]).column("embedding")
        return as_float32(column, VectorType.FLOAT32)
    return np.ascontiguousarray(np.load(source)[:rows], dtype=np.float32)


def bench(vectors_ND: Floats, repeat: int) -> list[dict[str, object]]:
    """One result for each type, encoding and level."""
    scale = calibrate_scale(vectors_ND)
    columns = {kind: to_arrow(vectors_ND, kind, scale)[0] for kind in TRIED}
    cases = [
        (kind, encoding, level) for kind, tried in TRIED.items() for encoding, level in itertools.product(tried, LEVELS)
    ]
    write_s, read_s, size = defaultdict(list), defaultdict(list), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.parquet"
        for _ in range(repeat):
            for case in cases:
                kind, encoding, level = case
                schema = _schema(vectors_ND.shape[1], kind, columns[kind].type)
                table = pa.table({"embedding": columns[kind]}, schema=schema.part)
                started = time.perf_counter()
                size_of_group = row_group_rows(schema, len(table), len(table))
                groups = (table.slice(start, size_of_group) for start in range(0, len(table), size_of_group))
                write_part(path, groups, schema, dict, ColumnEncoding(encoding, level))
                write_s[case].append(time.perf_counter() - started)
                started = time.perf_counter()
                back = pq.read_table(path)
                read_s[case].append(time.perf_counter() - started)
                if not back.equals(table):
                    raise RuntimeError(f"{case}: read back something else")
                size[case] = path.stat().st_size
    return [
        {
            "vector": str(kind),
            "encoding": encoding,
            "zstd_level": level,
            "bytes": size[case],
            "of_raw": round(size[case] / columns[kind].flatten().nbytes, 4),
            "write_seconds": round(statistics.median(write_s[case]), 4),
            "read_seconds": round(statistics.median(read_s[case]), 4),
        }
        for case in cases
        for kind, encoding, level in [case]
    ]


def _schema(dim: int, kind: VectorType, stored: pa.DataType) -> OutputSchema:
    stamp = SnapshotStamp("bench", "", None, "", "", Pooling.MEAN, True, "", "", dim, kind, None, 0, LongText.TRUNCATE)
    only = pa.schema([pa.field("embedding", stored, nullable=False)])
    return OutputSchema(stamp, only, only, ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--about", default="", help="what the vectors are, for the record")
    args = parser.parse_args()
    vectors_ND = load(args.vectors, args.rows)
    result = {
        "benchmark": "parquet_encoding",
        "vectors": args.about,
        "rows": vectors_ND.shape[0],
        "dim": vectors_ND.shape[1],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "repeat": args.repeat,
        "results": bench(vectors_ND, args.repeat),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

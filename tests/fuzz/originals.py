"""The whole files that mutants are made of: one corpus of real kinds of text, as several writers and compressors leave it.

    originals()    name -> Original: bytes, where its parts lie, whether altered values can be noticed

Parquet by pyarrow (codecs, page versions, encodings, with and without page checksums), DuckDB and Polars; Arrow files and
streams by pyarrow and Polars, ORC by pyarrow; JSON arrays, JSONL, CSV and text by gzip, zstd (with a content checksum where
the `zstd` command is there) and bzip2. The same on every call.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.orc import ORCFile, write_table

ROWS = 60
KEEP = ("lang", "n")
_SCRIPTS = ("plain words", "Füße und Ähren", "日本語の文章", "עברית", "emoji 🦆🦆", 'quotes "and", commas', "a\ttab")


@dataclass(frozen=True)
class Original:
    """`sealed`: a checksum covers the values (page CRC; gzip's, bzip2's, zstd's own): altered ones must be noticed."""

    name: str  # file name with its suffix
    data: bytes
    sealed: bool

    @property
    def footer_at(self) -> int:
        """Offset of the footer; the size where the format has none."""
        size = len(self.data)
        if self.name.endswith(".parquet"):
            return size - 8 - int.from_bytes(self.data[-8:-4], "little")
        if self.name.endswith(".arrow") and self.data.endswith(b"ARROW1"):
            return size - 10 - int.from_bytes(self.data[-10:-6], "little")
        if self.name.endswith(".orc"):
            return ORCFile(io.BytesIO(self.data)).content_length  # type: ignore[no-any-return]
        return size


def documents() -> list[dict[str, Any]]:
    """ROWS documents: repeated and unique words, several scripts, one long text."""
    rows = []
    for number in range(ROWS):
        script = _SCRIPTS[number % len(_SCRIPTS)]
        text = f"{number}: {script} " + " ".join(f"{script} {number * 7919 % 1009}" for _ in range(number % 9))
        rows.append({"id": f"doc-{number:03d}", "text": text.strip(), "lang": ("en", "de", "ja")[number % 3], "n": number})
    rows[7]["text"] = "A long text. " * 400
    return rows


@functools.cache
def originals() -> dict[str, Original]:
    """Every original, by name without suffix."""
    found = {**_by_pyarrow(), **_by_others(), **_other_formats(), **_compressed()}
    return dict(sorted(found.items()))


def _by_pyarrow() -> dict[str, Original]:
    table = pa.Table.from_pylist(documents())
    plain = {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"}}
    settings: dict[str, dict[str, Any]] = {
        "arrow-none": {"compression": "none"},
        "arrow-none-crc": {"compression": "none", "write_page_checksum": True},
        "arrow-snappy": {"compression": "snappy"},
        "arrow-zstd-crc": {"compression": "zstd", "write_page_checksum": True},
        "arrow-gzip-v2": {"compression": "gzip", "data_page_version": "2.0"},
        "arrow-lz4-v2-crc": {"compression": "lz4", "data_page_version": "2.0", "write_page_checksum": True},
        "arrow-brotli": {"compression": "brotli", "use_dictionary": False},
        "arrow-delta-crc": {"compression": "snappy", "write_page_checksum": True, **plain},
        "arrow-index": {"compression": "none", "write_page_index": True, "data_page_size": 512},
        "arrow-bare": {"compression": "none", "store_schema": False, "write_statistics": False},
    }
    return {
        name: Original(f"{name}.parquet", _written(table, row_group_size=25, **options), "write_page_checksum" in options)
        for name, options in settings.items()
    }


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _by_others() -> dict[str, Original]:
    import duckdb
    import polars

    table = pa.Table.from_pylist(documents())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.parquet"
        with duckdb.connect() as connection:
            connection.register("documents", table)
            connection.sql("SELECT * FROM documents").write_parquet(str(path), compression="zstd", row_group_size=2048)
        duck = path.read_bytes()
        polars.from_arrow(table).write_parquet(path, compression="snappy", row_group_size=25)  # type: ignore[union-attr]
        bear = path.read_bytes()
    return {
        "duckdb-zstd": Original("duckdb-zstd.parquet", duck, False),
        "polars-snappy": Original("polars-snappy.parquet", bear, False),
    }


def _other_formats() -> dict[str, Original]:
    import polars

    table = pa.Table.from_pylist(documents())

    def ipc(new: Any, compression: str | None) -> bytes:
        sink = io.BytesIO()
        with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table, max_chunksize=25)
        return sink.getvalue()

    bear, orc = io.BytesIO(), io.BytesIO()
    polars.from_arrow(table).write_ipc(bear, compression="lz4", record_batch_size=25)  # type: ignore[union-attr]
    write_table(table, orc, compression="zstd", stripe_size=1024, batch_size=25)
    return {
        "ipc-none": Original("ipc-none.arrow", ipc(pa.ipc.new_file, None), False),
        "ipc-zstd": Original("ipc-zstd.arrow", ipc(pa.ipc.new_file, "zstd"), False),
        "ipc-stream": Original("ipc-stream.arrow", ipc(pa.ipc.new_stream, None), False),
        "polars-lz4": Original("polars-lz4.arrow", bear.getvalue(), False),
        "orc-zstd": Original("orc-zstd.orc", orc.getvalue(), False),
        "gz-array": Original(
            "array.json.gz", gzip.compress(json.dumps(documents(), ensure_ascii=False).encode(), mtime=0), True
        ),
    }


def _compressed() -> dict[str, Original]:
    rows = documents()
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    csv = "id,text,lang,n\n" + "".join(
        f'{row["id"]},"{row["text"].replace(chr(34), chr(34) * 2)}",{row["lang"]},{row["n"]}\n' for row in rows
    )
    text = "".join(row["text"].replace("\n", " ") + "\n" for row in rows).encode()
    halves = jsonl.index(b"\n", len(jsonl) // 2) + 1
    found = {
        "gz-jsonl": Original("gz.jsonl.gz", gzip.compress(jsonl, mtime=0), True),
        "gz-members": Original(
            "members.jsonl.gz", gzip.compress(jsonl[:halves], mtime=0) + gzip.compress(jsonl[halves:], mtime=0), True
        ),
        "gz-csv": Original("gz.csv.gz", gzip.compress(csv.encode(), mtime=0), True),
        "gz-text": Original("gz.txt.gz", gzip.compress(text, mtime=0), True),
        "bz2-jsonl": Original("bz2.jsonl.bz2", bz2.compress(jsonl), True),
        "bz2-text": Original("bz2.txt.bz2", bz2.compress(text), True),
        "zst-jsonl": Original("zst.jsonl.zst", pa.compress(jsonl, codec="zstd", asbytes=True), False),
    }
    if command := shutil.which("zstd"):
        sealed = subprocess.run([command, "--check", "-q", "-c"], input=csv.encode(), capture_output=True, check=True).stdout
        found["zst-csv-check"] = Original("zst.csv.zst", sealed, True)
    return found

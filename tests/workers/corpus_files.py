"""Helpers of the reader tests: objects on disk as slices, and everything a reader made of them in one record."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import CorpusConfig
from workers.reading.reader import read_windows
from workers.records.documents import DocumentWindow, QuarantinedRow, ReadPlan
from workers.records.shard import ObjectSlice, Shard
from workers.storage.objects import stat_object

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@dataclass
class Read:
    windows: list[DocumentWindow]

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [row for window in self.windows for row in window.table.to_pylist()]

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.documents]

    @property
    def ids(self) -> list[Any]:
        return [row["id"] for row in self.documents]

    @property
    def quarantined(self) -> list[QuarantinedRow]:
        return [row for window in self.windows for row in window.quarantined]

    @property
    def reasons(self) -> dict[int | None, str]:
        return {row.row: row.reason for row in self.quarantined}

    def kept(self, name: str) -> list[Any]:
        return [row[f"keep.{name}"] for row in self.documents]

    @property
    def rows_read(self) -> int:
        return sum(window.rows_read for window in self.windows)


def plan_of(keep: Mapping[str, pa.DataType] | None = None, id_type: pa.DataType | None = None, **corpus: Any) -> ReadPlan:
    keep = keep or {}
    config = CorpusConfig(uri=["unused"], keep=list(keep), **corpus)
    return ReadPlan(config, id_type or pa.string(), pa.schema([pa.field(name, kind) for name, kind in keep.items()]))


def slice_of(path: Path, start: int = 0, stop: int | None = None, **fields: Any) -> ObjectSlice:
    info = stat_object(str(path), {})
    end = pq.read_metadata(path).num_row_groups if stop is None and path.suffix == ".parquet" else stop or info.size
    return ObjectSlice(info.uri, info.size, info.etag, start, end, **fields)


def read(
    source: Path | ObjectSlice | Iterable[ObjectSlice], plan: ReadPlan, exclude: Mapping[str, str] | None = None
) -> Read:
    """Reads a shard and checks what must always hold: each row is a document or quarantined, windows follow the plan."""
    slices = [slice_of(source)] if isinstance(source, Path) else [source] if isinstance(source, ObjectSlice) else source
    found = Read(list(read_windows(Shard(0, tuple(slices), 0), plan, exclude or {})))
    for index, window in enumerate(found.windows):
        window.table.validate(full=True)
        assert window.index == index
        assert window.table.schema == plan.schema
        assert window.table.num_rows + sum(row.rows or 0 for row in window.quarantined) == window.rows_read
    return found


def put(path: Path, data: bytes) -> Path:
    """Written as the name says: compressed by its suffix."""
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(data))
    return path


def put_jsonl(path: Path, *rows: Any) -> Path:
    """bytes and str rows are written as they are, others as JSON."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode() for row in rows
    ]
    return put(path, b"".join(line + b"\n" for line in lines))


def put_parquet(path: Path, table: pa.Table | dict[str, Any], **options: Any) -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def bad_utf8(*values: bytes | None, kind: pa.DataType | None = None) -> pa.Array:
    """A string column that holds bytes which are not UTF-8, as a careless writer leaves them in Parquet."""
    kind = kind or pa.string()
    large = kind == pa.large_string()
    binary = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(kind, len(binary), binary.buffers())

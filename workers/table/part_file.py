"""One part as a Parquet file: encodings, row groups, footer. Choices rest on benchmarks/results/parquet_encoding_*.json.

    float32   byte-stream-split, zstd 1 (higher levels: slower by half and more, and no smaller)
    float16   plain, zstd 3 (split would save 8% more, but DuckDB cannot read it)
    int8      dictionary, zstd 3
    binary    byte-stream-split, zstd 3

Pages carry a CRC: zstd decodes many a flipped byte without a word, and vectors are read again by later runs (seeding.py).
Ids and hashes hardly repeat, so a dictionary would only cost time; kept columns keep theirs. Statistics are written for
columns that someone may filter on, not for vectors and hashes. This file knows neither shards nor storage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import VectorType
from workers.table.schema import OutputSchema

ROW_GROUP_BYTES = 32 << 20  # of vectors: one row group is one unit of a parallel scan and fits a worker's memory easily
ROW_GROUP_ROWS = 65_536
ZSTD_LEVEL = 3  # of all other columns
ENCODINGS = {
    VectorType.FLOAT32: ("BYTE_STREAM_SPLIT", 1),
    VectorType.FLOAT16: ("PLAIN", 3),
    VectorType.INT8: ("DICTIONARY", 3),
    VectorType.BINARY: ("BYTE_STREAM_SPLIT", 3),
}


def vector_bytes(schema: OutputSchema) -> int:
    """Bytes of one stored vector."""
    stored = schema.vector_type
    return int(stored.list_size * stored.value_type.bit_width // 8)


def row_group_rows(schema: OutputSchema, rows: int, vectors: int) -> int:
    """Rows of a row group in a part of that many rows and vectors."""
    per_row = max(1, vectors * vector_bytes(schema) // max(1, rows))
    return max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // per_row))


def write_part(
    path: Path,
    groups: Iterable[pa.Table],
    schema: OutputSchema,
    footer: Callable[[], Mapping[str, str]],
    *,
    encoding: tuple[str, int] | None = None,
) -> None:
    """Write each of `groups` (columns of schema.part) as a row group, then the footer entries, asked for at the end.

    One group is in memory at a time. `encoding` and zstd level of the vectors are as measured, but for a benchmark's wish.

    Raises:
        OSError: disk full or not writable.
    """
    leaf = schema.embedding_leaf
    kind, level = encoding or ENCODINGS[schema.stamp.vector]
    leaves = _leaves(schema.part)
    names = [name for name in leaves if name not in (leaf, "id", "text_hash")]
    with pq.ParquetWriter(
        path,
        schema.part,
        compression="zstd",
        compression_level={name: level if name == leaf else ZSTD_LEVEL for name in leaves},
        use_dictionary=[*names, leaf] if kind == "DICTIONARY" else names,
        column_encoding=None if kind == "DICTIONARY" else {leaf: kind},
        write_statistics=["id", *names],
        write_page_checksum=True,
    ) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
        writer.add_key_value_metadata(dict(footer()))


def read_footer(data: bytes) -> dict[str, str]:
    """Footer entries of a Parquet file held in memory; {} when it is none."""
    try:
        entries = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError):
        return {}
    return {key.decode(): value.decode() for key, value in entries.items() if key != b"ARROW:schema"}


@functools.lru_cache(maxsize=64)
def _leaves(schema: pa.Schema) -> tuple[str, ...]:
    """Paths of the physical columns, as Parquet names them."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return tuple(parquet.column(number).path for number in range(len(parquet.names)))

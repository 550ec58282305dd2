"""A file of quarantined rows: runs/<run_id>/quarantine/*.parquet, one line a row, or a line for many rows of one object.

write_quarantine    a replica's lines of one shard, with footer entries as parts have them
read_quarantine     all lines of a file in memory
quarantined_lines   batches of lines of a file that is streamed, and how many it has
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),  # null: not known, or of a whole object
        pa.field("object", pa.string(), nullable=False),
        pa.field("row", pa.int64()),  # within the object; null: a line for several rows
        pa.field("rows", pa.int64()),  # that the line stands for; null: not known
        pa.field("reason", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
    ]
)


def write_quarantine(path: Path, lines: pa.Table, footer: Mapping[str, str]) -> None:
    """Raises: OSError: disk full or not writable."""
    with pq.ParquetWriter(path, QUARANTINE_SCHEMA, compression="zstd") as writer:
        writer.write_table(lines)
        writer.add_key_value_metadata(dict(footer))


def read_quarantine(data: bytes) -> pa.Table:
    """Raises: pyarrow.ArrowInvalid: not a file of this kind."""
    return pq.read_table(pa.BufferReader(data))


@contextmanager
def quarantined_lines(stream: IO[bytes], batch_rows: int = 8192) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """The number of lines, and the lines in batches, of an open file. Raises: pyarrow.ArrowInvalid: not of this kind."""
    with pq.ParquetFile(stream) as file:
        yield file.metadata.num_rows, file.iter_batches(batch_size=batch_rows, columns=QUARANTINE_SCHEMA.names)

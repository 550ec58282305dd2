"""A small table of the run's own (manifest, list of objects, quarantined shards) as the bytes of one Parquet file.

zstd, and page checksums that are verified when it is read: what a run resumes from must not be decoded from flipped bits.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def encode_table(table: pa.Table) -> bytes:
    """The table, its schema's metadata included, as a file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def decode_table(data: bytes) -> pa.Table:
    """Raises: pyarrow.ArrowException, OSError, ValueError: damaged, or no such file."""
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:  # read_table would import pandas
        return file.read()

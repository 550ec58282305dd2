"""A hash of each row, by which rows are sampled: the same row has the same key in every run, shard and order.

    row_keys(ids, hashes, ...)   [N] uint64
    keys_of(rows)                of the rows of a shard, computed once in each actor
    below(share)                 rows with a key below it are a sample of that share

A key is made of id, text hash, chunk number, and for token vectors the token's place. So equal rows have equal keys.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.records.digests import hash_texts
from workers.table.schema import CHUNK, ID, TEXT_HASH, OutputSchema
from workers.vectors.shard_rows import ShardRows

Keys = NDArray[np.uint64]


def key_columns(schema: OutputSchema) -> tuple[str, ...]:
    """Columns that keys are made of."""
    return (ID, TEXT_HASH, CHUNK) if schema.chunked else (ID, TEXT_HASH)


def keys_of(rows: ShardRows) -> Keys:
    """[N] of the shard's vectors. The step must read key_columns()."""

    def make() -> Keys:
        chunks = rows.column(CHUNK) if CHUNK in rows.columns.column_names else None
        counts = [part.counts for part in rows.parts if part.counts is not None]
        return row_keys(rows.column(ID), rows.column(TEXT_HASH), chunks, np.concatenate(counts) if counts else None)

    keys: Keys = rows.remember("row keys", make)
    return keys


def row_keys(
    ids: pa.ChunkedArray, hashes: pa.ChunkedArray, chunks: pa.ChunkedArray | None, counts: NDArray[np.int64] | None
) -> Keys:
    """Keys of rows; with `counts` (vectors of each row) one for each vector."""
    names = ids.cast(pa.large_string()).combine_chunks()
    names = pa.concat_arrays(names.chunks) if isinstance(names, pa.ChunkedArray) else names
    digests = hash_texts(names)
    first = np.frombuffer(digests.tobytes(), np.uint64).reshape(-1, 2)[:, 0]
    keys = _mixed(first ^ _mixed(text_keys(hashes)))
    if chunks is not None:
        keys = _mixed(keys + chunks.to_numpy().astype(np.uint64))
    if counts is not None:
        starts = np.cumsum(counts) - counts
        places = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(starts, counts)
        keys = _mixed(np.repeat(keys, counts) + places.astype(np.uint64))
    return keys


def text_keys(hashes: pa.ChunkedArray) -> Keys:
    """[N] the first 8 bytes of each text hash."""
    cells = [np.frombuffer(b"".join(chunk.to_pylist()), np.uint64).reshape(-1, 2)[:, 0] for chunk in hashes.chunks]
    return np.concatenate(cells) if cells else np.empty(0, np.uint64)


def below(share: float) -> np.uint64:
    """The limit that this share of all keys stays below."""
    return np.uint64(min(2**64 - 1, int(share * 2.0**64)))


def _mixed(keys: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014)."""
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))

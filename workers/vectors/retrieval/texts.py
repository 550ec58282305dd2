"""The distinct texts of a shard: what a ranking ranks. Rows of equal text_hash (copies, chunks of a document) are one.

A key is the 16 bytes of text_hash: as `S16` for looking up, as two uint64 for sorting. Both have the same order.
Axes: N rows of the shard, G distinct texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.records.documents import TEXT_HASH_BYTES
from workers.table.schema import TEXT_HASH
from workers.vectors.shard_rows import ShardRows

Keys = NDArray[np.bytes_]
"""text_hash of texts, dtype S16."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Of one shard. `rows`: all rows, text after text; those of text g are rows[starts[g] : starts[g + 1]]."""

    keys: Keys  # [G] ascending
    text_of_row: NDArray[np.int64]  # [N]
    rows: NDArray[np.int64]  # [N]
    starts: NDArray[np.int64]  # [G + 1]


def texts_of(rows: ShardRows) -> Texts:
    """Those of the shard; needs the column text_hash."""
    return rows.remember("texts", lambda: _texts(hashes(rows.column(TEXT_HASH))))  # type: ignore[no-any-return]


def hashes(column: pa.ChunkedArray) -> Keys:
    """[N] a column of text hashes."""
    cells = [chunk.cast(pa.binary(TEXT_HASH_BYTES)) for chunk in column.chunks]
    raw = b"".join(cell.as_py() for chunk in cells for cell in chunk)
    return np.frombuffer(raw, dtype=f"S{TEXT_HASH_BYTES}")


def _texts(keys_N: Keys) -> Texts:
    keys, text_of_row, counts = np.unique(keys_N, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Texts(keys, text_of_row.astype(np.int64), np.argsort(text_of_row, kind="stable").astype(np.int64), starts)


def halves(keys: Keys) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first and the last 8 bytes of each key, as numbers of the same order."""
    pairs = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def joined(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> Keys:
    """The keys of such halves."""
    pairs: NDArray[Any] = np.stack([high, low], axis=1).astype(">u8")
    return np.ascontiguousarray(pairs).view(f"S{TEXT_HASH_BYTES}").reshape(-1)

"""An index of the texts in the vector cache: 128-bit text hash -> first cache row, number of rows.

    hash_texts    a column of texts -> hashes, straight from Arrow's buffer: no Python string is made
    HashIndex     find many, add many

Hashes are NumPy arrays of type S16. NumPy drops trailing zero bytes when an element is taken out, never when arrays are
compared, sorted or copied: all 128 bits count. The index is sorted runs that are merged as they double and left alone beyond
RUN_TEXTS: 20 bytes a text, and merging never holds more than a few runs twice. Knows neither texts nor vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.host.spill_file import Positions
from workers.records import digests
from workers.records.documents import TEXT_HASH_BYTES

Hashes = npt.NDArray[np.bytes_]

RUN_TEXTS = 1 << 18  # 5 MB a run; a 1 GiB shard of short texts has a dozen of them to search
_HASH = np.dtype(f"S{TEXT_HASH_BYTES}")


def hash_texts(texts: pa.ChunkedArray | pa.Array) -> Hashes:
    """[N] documents.text_hash of each text; `texts` is large_string without nulls."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    hashed: list[Hashes] = [digests.hash_texts(chunk) for chunk in chunks]
    return hashed[0] if len(hashed) == 1 else np.concatenate([np.empty(0, _HASH), *hashed])


def from_column(column: pa.ChunkedArray | pa.Array) -> Hashes:
    """A text_hash column, binary(16) without nulls, as hashes."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.frombuffer(chunk.buffers()[1], _HASH)[chunk.offset : chunk.offset + len(chunk)] for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty(0, _HASH)


def to_column(hashes: Hashes) -> pa.FixedSizeBinaryArray:
    """Hashes as a text_hash column."""
    buffer = pa.py_buffer(np.ascontiguousarray(hashes))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(TEXT_HASH_BYTES), len(hashes), [None, buffer])


def first_positions(hashes: Hashes) -> tuple[Positions, Positions]:
    """([U] ascending positions where a text appears first, [N] for each text which of those U is its own)."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


@dataclass(frozen=True, slots=True)
class _Run:
    """Texts sorted by hash."""

    hashes: Hashes
    rows: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32] | None  # None: one row each

    def __len__(self) -> int:
        return len(self.hashes)


class HashIndex:
    """Not for use from several threads at once."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def find(self, hashes: Hashes) -> tuple[Positions, Positions]:
        """[N] first cache row of each text, -1 where it is not there, and [N] its number of rows, 0 where it is not."""
        rows, counts = np.full(len(hashes), -1, np.int64), np.zeros(len(hashes), np.int64)
        left = np.argsort(hashes)  # in order, neighbours share what a search brings into the processor's caches
        sought = hashes[left]
        for run in reversed(self._runs):
            at = np.searchsorted(run.hashes, sought)
            at[at == len(run)] = 0
            hit = run.hashes[at] == sought
            rows[left[hit]] = run.rows[at[hit]]
            counts[left[hit]] = 1 if run.counts is None else run.counts[at[hit]]
            left, sought = left[~hit], sought[~hit]
        return rows, counts

    def add(self, hashes: Hashes, rows: Positions, counts: Positions) -> None:
        """Texts that are not there yet, each once: `rows` are their first cache rows (below 2^32)."""
        if len(hashes):
            several = None if (counts == 1).all() else counts.astype(np.uint32)
            self._runs.append(_sorted(hashes, rows.astype(np.uint32), several))
        while len(self._runs) > 1 and len(self._runs[-2]) <= min(2 * len(self._runs[-1]), RUN_TEXTS):
            self._runs[-2:] = [_merged(*self._runs[-2:])]


def _sorted(hashes: Hashes, rows: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint32] | None) -> _Run:
    order = np.argsort(hashes, kind="stable")  # two sorted halves are merged, not sorted
    return _Run(hashes[order], rows[order], None if counts is None else counts[order])


def _merged(one: _Run, other: _Run) -> _Run:
    counts = None
    if one.counts is not None or other.counts is not None:
        ones = [np.ones(len(run), np.uint32) if run.counts is None else run.counts for run in (one, other)]
        counts = np.concatenate(ones)
    return _sorted(np.concatenate([one.hashes, other.hashes]), np.concatenate([one.rows, other.rows]), counts)

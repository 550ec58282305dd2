"""The vectors that recall is measured with: chosen by the hash of their texts, so the same whatever the shards and actors.

HeldOut      a pass: the vectors with the smallest hashes
Questions    its answer: what is asked, and where each vector stands
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.table.schema import TEXT_HASH
from workers.table.vectors import Floats
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Partial, Step

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio


@dataclass(frozen=True, slots=True)
class Questions:
    """Q vectors of the snapshot that are held out of its index while recall is measured."""

    vectors: Floats  # [Q, D], of length 1
    shards: NDArray[np.int64]  # [Q]
    places: NDArray[np.int64]  # [Q] number of the vector within its shard

    @classmethod
    def of(cls, answer: Mapping[str, NDArray[Any]]) -> Questions:
        return cls(answer["vectors"], answer["shards"], answer["places"])


@dataclass(frozen=True)
class HeldOut(Step):
    """`count` vectors of different texts. With pooling=tokens one vector of a text, by its hash too."""

    count: int
    columns: tuple[str, ...] = (TEXT_HASH,)

    def of_shard(self, rows: ShardRows) -> Partial:
        hashes = _hashes(rows)
        offsets = vector_offsets(rows)
        counts = np.diff(offsets)
        full = np.flatnonzero(counts)
        _, first = np.unique(hashes[full], return_index=True)  # ascending, and each text once
        chosen = full[first[: self.count]]
        places = offsets[chosen] + ((hashes[chosen] * _ODD) >> np.uint64(33)).astype(np.int64) % counts[chosen]
        return {
            "hashes": hashes[chosen],
            "shards": np.full(len(chosen), rows.number, np.int64),
            "places": places,
            "vectors": rows.take(places, unit=True),
        }

    def combiner(self) -> Combiner:
        return _Smallest(self.count)


class _Smallest(Combiner):
    """Keeps the rows with the smallest hashes; of equal hashes that of the earliest shard."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        joined = {
            name: np.concatenate([self._kept[name], value]) if self._kept else np.asarray(value)
            for name, value in partial.items()
        }
        _, first = np.unique(joined["hashes"], return_index=True)
        self._kept = {name: value[first[: self._count]] for name, value in joined.items()}

    def result(self) -> Partial:
        return self._kept


def vector_offsets(rows: ShardRows) -> NDArray[np.int64]:
    """[R + 1] number of the first vector of each row within the shard; the last is the number of vectors."""
    counts = [np.ones(part.rows, np.int64) if part.counts is None else part.counts for part in rows.parts]
    return np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))]).astype(np.int64)


def _hashes(rows: ShardRows) -> NDArray[np.uint64]:
    """[R] the first eight bytes of each row's text hash."""
    chunks = rows.column(TEXT_HASH).chunks
    pieces = [
        np.frombuffer(chunk.buffers()[1], "<u8")[2 * chunk.offset : 2 * (chunk.offset + len(chunk))][::2] for chunk in chunks
    ]
    return np.concatenate([np.empty(0, np.uint64), *pieces]).astype(np.uint64)

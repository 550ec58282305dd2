"""One index file: a graph of usearch (HNSW, Malkov and Yashunin 2018) over some vectors of a shard, by cosine.

    IndexShape    how files are built
    keys_of       the key of each vector, and back: row_of_key
    build         vectors -> an index in memory, to which more may be added
    open_mapped   a file on the local disk -> an index whose pages are read when they are needed

One thread adds vectors in the order of their rows. usearch draws the levels of its graph from a generator of its own with a
fixed seed, so equal vectors give equal files, bit for bit, on one kind of CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.errors import UsageError
from workers.table.vectors import Floats

TOKEN_BITS = 16  # of a key with pooling=tokens: a text has fewer tokens than 65,536
IndexPrecision = Literal["f32", "f16", "bf16", "i8"]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class IndexShape:
    """How every file of an index is built."""

    dim: int
    precision: IndexPrecision
    connectivity: int  # neighbours of a vector on the levels above the lowest, which has twice as many
    expansion: int  # candidates that are looked at while a vector is added
    tokens: bool  # a row holds several vectors


def keys_of(rows: NDArray[np.int64], places: NDArray[np.int64] | None) -> Keys:
    """[V] key of each vector: the number of its row within the shard; with pooling=tokens row << 16 | place of the token."""
    keys = rows.astype(np.uint64)
    if places is None:
        return keys
    return (keys << np.uint64(TOKEN_BITS)) | places.astype(np.uint64)


def row_of_key(keys: Keys, *, tokens: bool) -> NDArray[np.int64]:
    """[V] number of the row within the shard."""
    return (keys >> np.uint64(TOKEN_BITS) if tokens else keys).astype(np.int64)


def usearch_index() -> Any:
    """The class Index of usearch. Raises: UsageError: the extra is not installed."""
    try:
        from usearch.index import Index
    except ImportError:
        raise UsageError("index files need the package usearch: pip install 'reembed[vectors]'") from None
    return Index


def _empty(shape: IndexShape) -> Any:
    return usearch_index()(
        ndim=shape.dim,
        metric="cos",
        dtype=shape.precision,
        connectivity=shape.connectivity,
        expansion_add=shape.expansion,
        enable_key_lookups=False,
    )


def build(shape: IndexShape, blocks: Iterable[tuple[Keys, Floats]]) -> Any:
    """An index of these vectors, in their order. Raises: UsageError: usearch is not installed."""
    index = _empty(shape)
    for keys, vectors in blocks:
        add(index, keys, vectors)
    return index


def add(index: Any, keys: Keys, vectors: Floats) -> None:
    """Add vectors with one thread, which is what makes the graph reproducible."""
    if len(keys):
        index.add(keys, vectors, threads=1)


def open_mapped(path: Path, shape: IndexShape) -> Any:
    """A file whose digest has been compared: usearch trusts its contents. Raises: UsageError: usearch is not installed."""
    index = _empty(shape)
    index.view(str(path))
    return index


def nearest(index: Any, queries: Floats, count: int, expansion: int) -> tuple[Keys, Floats]:
    """Keys [Q, C] and cosines [Q, C] of the vectors found, best first; C <= `count`. Cells not found have cosine -inf.

    `expansion`: candidates that are looked at, `count` at least.
    """
    count = min(count, len(index))
    keys = np.zeros((len(queries), count), np.uint64)
    scores = np.full((len(queries), count), -np.inf, np.float32)
    if count == 0:
        return keys, scores
    index.expansion_search = max(expansion, count)
    found = index.search(queries, count, threads=1)
    if len(queries) == 1:
        keys[0, : len(found.keys)], scores[0, : len(found.keys)] = found.keys, 1 - found.distances
        return keys, scores
    there = np.arange(count) < np.asarray(found.counts)[:, None]
    keys[there], scores[there] = found.keys[there], 1 - found.distances[there]
    return keys, scores

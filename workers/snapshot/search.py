"""Exact nearest neighbours of one query in the parts of a snapshot: every vector is looked at, nothing is indexed.

    parts -> row groups -> cosine of each row -> the k best per part -> the k best of all -> their other columns

One row group of vectors is in memory per thread. pooling=tokens scores late interaction: the sum over the query's tokens of
the best cosine among the document's (MaxSim, Khattab and Zaharia 2020), divided by the query's tokens.
No torch; the query arrives as vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import VectorType
from workers.storage.store import Store
from workers.table.partitions import NULL_FOLDER
from workers.table.schema import EMBEDDING
from workers.table.vectors import as_float32

THREADS = 8
TEXT_HASH = "text_hash"

Floats = npt.NDArray[np.float32]


class _Hit(NamedTuple):
    score: float
    path: str
    row: int


def nearest(
    store: Store, paths: Sequence[str], query_QD: Floats, k: int, vector: VectorType, scale: float | None
) -> list[dict[str, Any]]:
    """The k best rows: `score` (cosine, or mean MaxSim), partition columns and every stored column but the vector.

    Args:
        query_QD: one row, or for pooling=tokens one row a token of the query.

    Raises:
        TransientError, FileNotFoundError: a part cannot be read.
    """
    query = _unit(query_QD)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda path: _best_of_part(store, path, query, k, vector, scale), paths)
        best = heapq.nlargest(k, (hit for hits in found for hit in hits))
        rows = dict(zip(best, pool.map(lambda hit: _fetch(store, hit), best), strict=True))
    return [{"score": round(hit.score, 6)} | rows[hit] for hit in best]


def _best_of_part(store: Store, path: str, query: Floats, k: int, vector: VectorType, scale: float | None) -> list[_Hit]:
    hits: list[_Hit] = []
    with store.open(path) as stream:
        file = pq.ParquetFile(stream)
        first = 0
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=[EMBEDDING]).column(EMBEDDING)
            scores = _scores(column, query, vector, scale)
            top = np.argpartition(-scores, k)[:k] if len(scores) > k else np.arange(len(scores))
            hits += [_Hit(float(scores[row]), path, first + int(row)) for row in top]
            first += len(scores)
    return heapq.nlargest(k, hits)


def _scores(column: pa.ChunkedArray, query: Floats, vector: VectorType, scale: float | None) -> npt.NDArray[np.float32]:
    cosine_RQ = _unit(as_float32(column, vector, scale)) @ query.T
    if not pa.types.is_list(column.type):
        return cosine_RQ[:, 0]
    counts = np.array([len(row) for row in column], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.maximum.reduceat(cosine_RQ, starts, axis=0).mean(axis=1) if len(counts) else np.empty(0, np.float32)


def _fetch(store: Store, hit: _Hit) -> dict[str, Any]:
    """One row's other columns, from the row group that holds it."""
    with store.open(hit.path) as stream:
        file = pq.ParquetFile(stream)
        names = [name for name in file.schema_arrow.names if name not in (EMBEDDING, TEXT_HASH, "tokens")]
        group, row = _locate(file, hit.row)
        cells: dict[str, Any] = file.read_row_group(group, columns=names).slice(row, 1).to_pylist()[0]
    return dict(_partitions(hit.path)) | cells


def _locate(file: pq.ParquetFile, row: int) -> tuple[int, int]:
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return group, row
        row -= rows
    raise IndexError(row)


def _partitions(path: str) -> Iterator[tuple[str, str | None]]:
    for folder in path.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if equals:
            yield unquote(name), None if value == NULL_FOLDER else unquote(value)


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit

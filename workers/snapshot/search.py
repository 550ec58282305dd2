"""Exact nearest neighbours of one query in the parts of a snapshot: every vector is compared, there is no index.

    parts -> batches of vectors -> cosine of each row -> the k best per part -> the k best of all -> their other columns

One batch of vectors is in memory per thread. pooling=tokens scores late interaction: the sum over the query's tokens of
the best cosine among the document's (MaxSim, Khattab and Zaharia 2020), divided by the query's tokens.
No torch; the query arrives as vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from workers.snapshot.vectors import VectorBatch, iterate_vectors
from workers.storage.store import Store
from workers.table.part_file import open_part
from workers.table.partitions import hive_partitions
from workers.table.schema import EMBEDDING, TEXT_HASH, TOKENS, OutputSchema
from workers.table.vectors import Floats, unit_rows

THREADS = 8


class _Hit(NamedTuple):
    score: float
    path: str
    row: int


def nearest(store: Store, paths: Sequence[str], schema: OutputSchema, query_QD: Floats, k: int) -> list[dict[str, Any]]:
    """The k best rows: `score` (cosine, or mean MaxSim), partition columns and every stored column but the vector.

    Args:
        schema: of the snapshot that the parts belong to.
        query_QD: one row, or for pooling=tokens one row a token of the query.

    Raises:
        FileNotFoundError, ObjectError, TransientError: a part is gone, damaged, or cannot be read.
    """
    query = unit_rows(query_QD)
    with ThreadPoolExecutor(THREADS) as pool:
        per_part = pool.map(lambda path: _best_of_part(store, path, schema, query, k), paths)
        best = heapq.nlargest(k, (hit for hits in per_part for hit in hits))
        rows = dict(zip(best, pool.map(lambda hit: _fetch(store, hit), best), strict=True))
    return [{"score": round(hit.score, 6)} | rows[hit] for hit in best]


def _best_of_part(store: Store, path: str, schema: OutputSchema, query: Floats, k: int) -> list[_Hit]:
    hits: list[_Hit] = []
    for batch in iterate_vectors(store, [path], schema, token_vectors=True):
        scores = _scores(batch, query)
        top = np.argpartition(-scores, k)[:k] if len(scores) > k else np.arange(len(scores))
        hits = heapq.nlargest(k, [*hits, *(_Hit(float(scores[row]), path, batch.first_row + int(row)) for row in top)])
    return hits


def _scores(batch: VectorBatch, query: Floats) -> Floats:
    """[N] of each row of the batch; -1 for a row without vectors."""
    cosine_VQ = unit_rows(batch.vectors) @ query.T
    if batch.counts is None:
        return cosine_VQ[:, 0]
    scores = np.full(len(batch), np.float32(-1))
    filled = np.flatnonzero(batch.counts)
    if len(filled):
        starts = (np.cumsum(batch.counts) - batch.counts)[filled]
        scores[filled] = np.maximum.reduceat(cosine_VQ, starts, axis=0).mean(axis=1)
    return scores


def _fetch(store: Store, hit: _Hit) -> dict[str, Any]:
    """One row's other columns, from the row group that holds it."""
    with open_part(store, hit.path) as part:
        names = [name for name in part.schema.names if name not in (EMBEDDING, TEXT_HASH, TOKENS)]
        return dict(hive_partitions(hit.path.split("/")[:-1])) | part.row(hit.row, names)

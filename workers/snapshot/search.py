"""Exact nearest neighbours of one query in the parts of a snapshot: every vector is compared, there is no index.

    parts -> batches of vectors -> cosine of each row -> the k best per part -> the k best of all -> their other columns

    nearest       the k best rows, with their columns
    best_of_part  the k best rows of one part
    score_rows    the same scores for a few rows of a part, whose row groups alone are read
    with_columns  the other columns of rows that were found

One batch of vectors is in memory per thread. pooling=tokens scores late interaction: the sum over the query's tokens of
the best cosine among the document's (MaxSim, Khattab and Zaharia 2020), divided by the query's tokens.
pooling=sparse scores by dot product: weights say how much a word matters, and so does the length of a vector.
No torch; the query arrives as vectors.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.host.spill_file import Positions
from workers.snapshot.vectors import VectorBatch, iterate_vectors, part_rows
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.table.part_file import open_part
from workers.table.partitions import hive_partitions
from workers.table.schema import TEXT_HASH, TOKENS, OutputSchema
from workers.table.vectors import Floats, unit_rows

THREADS = 8


class Hit(NamedTuple):
    """A row of a part, and its score."""

    score: float
    path: str
    row: int


def nearest(
    store: Store, paths: Sequence[str], schema: OutputSchema, query_QD: Floats, k: int, where: Where | None = None
) -> list[dict[str, Any]]:
    """The k best rows: `score`, partition columns and every stored column but those of vectors.

    The score is the cosine, the mean MaxSim, or of sparse vectors the dot product.

    Args:
        schema: of the snapshot that the parts belong to; a view of it searches another column of vectors.
        query_QD: one row, or for pooling=tokens one row a token of the query; of a sparse query with its zeros.
        where: rows for which it does not hold are left out.

    Raises:
        FileNotFoundError, ObjectError, TransientError: a part is gone, damaged, or cannot be read.
    """
    query = query_QD if schema.sparse else unit_rows(query_QD)
    with ThreadPoolExecutor(THREADS) as pool:
        per_part = pool.map(lambda path: best_of_part(store, path, schema, query, k, where), paths)
        best = heapq.nlargest(k, (hit for hits in per_part for hit in hits))
        return with_columns(store, best, schema, pool)


def best_of_part(
    store: Store, path: str, schema: OutputSchema, query: Floats, k: int, where: Where | None = None
) -> list[Hit]:
    """The k best rows of one part. `query`: as for nearest(), of length 1. Raises: as nearest()."""
    hits: list[Hit] = []
    for batch in iterate_vectors(store, [path], schema, where.columns if where else (), token_vectors=True):
        scores = _scores(batch, query)
        chosen = np.arange(len(scores)) if where is None else np.flatnonzero(where.rows(batch.columns))
        here = scores[chosen]
        top = np.argpartition(-here, k)[:k] if len(here) > k else np.arange(len(here))
        found = (Hit(float(here[at]), path, batch.first_row + int(chosen[at])) for at in top)
        hits = heapq.nlargest(k, [*hits, *found])
    return hits


def score_rows(store: Store, path: str, schema: OutputSchema, query: Floats, rows: Positions) -> list[Hit]:
    """Hits for these rows of a part, ascending and each once. Raises: as nearest()."""
    hits: list[Hit] = []
    for batch in part_rows(store, path, schema, rows):
        hits += [Hit(float(score), path, batch.first_row + at) for at, score in enumerate(_scores(batch, query))]
    return hits


def with_columns(store: Store, hits: Sequence[Hit], schema: OutputSchema, pool: Executor) -> list[dict[str, Any]]:
    """`score` and the other columns of each hit, in their order. Raises: as nearest()."""
    rows = pool.map(lambda hit: _fetch(store, hit, schema), hits)
    return [{"score": round(hit.score, 6)} | row for hit, row in zip(hits, rows, strict=True)]


def _scores(batch: VectorBatch, query: Floats) -> Floats:
    """[N] of each row of the batch; -1 for a row without vectors."""
    if batch.indices is not None and batch.counts is not None:
        return _products(batch.vectors[:, 0], batch.indices, batch.counts, query[0])
    cosine_VQ = unit_rows(batch.vectors) @ query.T
    if batch.counts is None:
        return cosine_VQ[:, 0]
    scores = np.full(len(batch), np.float32(-1))
    filled = np.flatnonzero(batch.counts)
    if len(filled):
        starts = (np.cumsum(batch.counts) - batch.counts)[filled]
        scores[filled] = np.maximum.reduceat(cosine_VQ, starts, axis=0).mean(axis=1)
    return scores


def _products(weights_V: Floats, indices_V: NDArray[np.int32], counts_N: Positions, query_D: Floats) -> Floats:
    """[N] dot products of sparse vectors with a query, summed in float64."""
    scores = np.zeros(len(counts_N), np.float32)
    filled = np.flatnonzero(counts_N)
    if len(filled):
        products = weights_V.astype(np.float64) * query_D.astype(np.float64)[indices_V]
        scores[filled] = np.add.reduceat(products, (np.cumsum(counts_N) - counts_N)[filled])
    return scores


def _fetch(store: Store, hit: Hit, schema: OutputSchema) -> dict[str, Any]:
    """One row's other columns, from the row group that holds it."""
    with open_part(store, hit.path) as part:
        names = [name for name in part.schema.names if name not in (*schema.vectors, TEXT_HASH, TOKENS)]
        return dict(hive_partitions(hit.path.split("/")[:-1])) | part.row(hit.row, names)

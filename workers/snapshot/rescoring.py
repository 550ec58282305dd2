"""Search in two passes: a small column of every row, then another column of the best candidates alone.

    candidates    the rows of one part that are best by the small column
    rescored      the k best rows of a snapshot: k times `oversample` candidates, scored by the column that decides

The first pass reads a tenth or less of the bytes. Of the second, only row groups that hold a candidate are read. A row that
is not among the candidates is not found, so the result is approximate; scores are those of exact search, by the second
column. Binary columns are compared by their differing bits (Hamming), all others by cosine. Rescoring of binary codes:
Yamada et al. 2021, arXiv 2106.00882. N rows, W bytes of a stored binary vector.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import VectorType
from workers.snapshot.search import THREADS, Hit, best_of_part, score_rows, with_columns
from workers.snapshot.vectors import rows_where
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.table.part_file import PartReader, decoding, open_part
from workers.table.schema import OutputSchema
from workers.table.vectors import Floats, stored_cells, unit_rows

OVERSAMPLE = 10  # candidates for each row that is asked for
READ_ROWS = 65_536  # of a binary column at a time: 3 MiB at 384 components


def rescored(
    store: Store, paths: Sequence[str], schema: OutputSchema, first: OutputSchema, query_QD: Floats, query_QF: Floats,
    k: int, oversample: int, where: Where | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """As workers.snapshot.search.nearest, for the k best of `k * oversample` candidates.

    Args:
        schema: a view on the column that scores. first: on the column that finds candidates.
        query_QD, query_QF: the query in the components of the two columns.

    Raises: as nearest().
    """
    query, rough = unit_rows(query_QD), unit_rows(query_QF)
    with ThreadPoolExecutor(THREADS) as pool:
        per_part = pool.map(lambda path: candidates(store, path, first, rough, k * oversample, where), paths)
        rows: dict[str, list[int]] = defaultdict(list)
        for hit in heapq.nlargest(k * oversample, (hit for hits in per_part for hit in hits)):
            rows[hit.path].append(hit.row)
        chosen = {path: np.sort(np.array(mine, np.int64)) for path, mine in rows.items()}
        scored = pool.map(lambda item: score_rows(store, item[0], schema, query, item[1]), chosen.items())
        best = heapq.nlargest(k, (hit for hits in scored for hit in hits))
        return with_columns(store, best, schema, pool)


def candidates(
    store: Store, path: str, first: OutputSchema, query_QF: Floats, count: int, where: Where | None = None
) -> list[Hit]:
    """The `count` best rows of one part by a small column; binary by cosines of the signs. Raises: as nearest()."""
    if first.vector_format.vector is not VectorType.BINARY or first.lists:
        return best_of_part(store, path, first, query_QF, count, where)
    bits_W = np.packbits(query_QF[0] > 0)
    with open_part(store, path) as part:
        differing_N = _differing_bits(part, first.column, bits_W)
    rows = np.arange(len(differing_N))
    if where is not None:
        rows = np.flatnonzero(rows_where(store, path, first, where))
    here = differing_N[rows]
    top = np.argpartition(here, count)[:count] if len(here) > count else np.arange(len(here))
    bits = first.vector_format.dim
    return [Hit(1 - 2 * int(here[at]) / bits, path, int(rows[at])) for at in top]


def _differing_bits(part: PartReader, column: str, query_W: NDArray[np.uint8]) -> NDArray[np.int32]:
    """[N] bits in which each row's code differs from the query's."""
    found = [np.empty(0, np.int32)]
    word = np.dtype("<u8") if len(query_W) % 8 == 0 else np.dtype(np.uint8)
    query = query_W.view(word)
    for batch in part.batches(READ_ROWS, [column]):
        with decoding(part.uri):
            cells_NW = np.ascontiguousarray(stored_cells(batch.column(column), VectorType.BINARY))
            found.append(np.bitwise_count(cells_NW.view(word) ^ query).sum(axis=1, dtype=np.int32))
    return np.concatenate(found)

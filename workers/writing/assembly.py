"""Documents meet their vectors again: two spools become the rows of a part, and the figures of a receipt.

    document_places   where on the shelf each document's rows begin, and how many they are
    joined_rows       documents -> output rows: which document, which shelf row (a document with chunks has several)
    join              output rows -> table, documents and shelf read by position
    count_documents   tokens, truncation, clipping, distinct ids over all documents, reused and repeated ones included

Knows neither parts nor storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.dedup.hash_index import hash_texts
from workers.dedup.vector_cache import ShelfRows
from workers.host.spill_file import Positions, take_rows
from workers.records.shard import TOKEN_BINS
from workers.records.tokens import ranges
from workers.table.schema import CLIPPED, EMBEDDING


@dataclass(frozen=True, slots=True)
class Places:
    """Where each document's vectors lie: first shelf row, number of rows."""

    first: Positions
    count: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class JoinedRows:
    """Output rows in their order: the place of each one's document among all documents, ascending, and its shelf row."""

    document: Positions
    shelf: Positions

    def __len__(self) -> int:
        return len(self.shelf)

    def __getitem__(self, run: slice) -> JoinedRows:
        return JoinedRows(self.document[run], self.shelf[run])


@dataclass(frozen=True, slots=True)
class DocumentTotals:
    """Over all documents of a shard. `token_histogram` counts documents by TOKEN_BINS."""

    distinct_ids: int = 0
    truncated: int = 0
    clipped: int = 0
    token_histogram: tuple[int, ...] = (0,) * (len(TOKEN_BINS) + 1)


def document_places(documents: Sequence[pa.RecordBatch]) -> Places:
    """Of all documents."""
    if not documents:
        return Places(np.empty(0, np.int64), np.empty(0, np.int32))
    columns = [batch.column(EMBEDDING) for batch in documents]
    first, count = (np.concatenate([column.field(name).to_numpy() for column in columns]) for name in ("row", "rows"))
    return Places(first, count)


def joined_rows(places: Places, chosen: Positions) -> JoinedRows:
    """Output rows of the documents at the ascending places `chosen`."""
    first, count = places.first[chosen], places.count[chosen]
    if (count == 1).all():
        return JoinedRows(chosen, first)
    return JoinedRows(np.repeat(chosen, count), ranges(first, count.astype(np.int64)))


def join(documents: Sequence[pa.RecordBatch], shelf: ShelfRows, rows: JoinedRows, schema: pa.Schema) -> pa.Table:
    """The rows as a table of `schema`. Runs of rows stay in the files that back them; at least one row."""
    halves = (shelf.take(rows.shelf), take_rows(documents, rows.document).drop_columns([EMBEDDING]))
    columns = {name: half.column(name) for half in halves for name in half.column_names}  # a kept column may be `clipped`
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def count_documents(documents: Sequence[pa.RecordBatch], shelf: ShelfRows, release: Callable[[], None]) -> DocumentTotals:
    """Two passes over the documents; of the shelf only the columns of numbers are read.

    `release` lets go of the pages read so far: it is called after each batch.
    """
    if not documents:
        return DocumentTotals()
    tokens_R, truncated_R = shelf.numbers("num_tokens"), shelf.numbers("truncated")
    clipped_R = shelf.numbers(CLIPPED) if CLIPPED in shelf.names else None
    bins, truncated, clipped = np.zeros(len(TOKEN_BINS) + 1, np.int64), 0, 0
    for batch in documents:
        places = document_places([batch])
        rows = joined_rows(places, np.arange(len(batch))).shelf
        starts = np.cumsum(places.count) - places.count  # every document has at least one row
        tokens_D = np.add.reduceat(tokens_R[rows], starts, dtype=np.int64)
        bins += np.bincount(np.searchsorted(TOKEN_BINS, tokens_D), minlength=len(bins))
        truncated += int(np.logical_or.reduceat(truncated_R[rows], starts).sum())
        clipped += 0 if clipped_R is None else int(clipped_R[rows].sum())
        release()
    del tokens_R, truncated_R, clipped_R  # before as much again is needed for the ids
    return DocumentTotals(_distinct(documents, "id", release), truncated, clipped, tuple(bins.tolist()))


def _distinct(documents: Sequence[pa.RecordBatch], name: str, release: Callable[[], None]) -> int:
    """Different values of a column of strings or integers. Sorted in place: pyarrow's count takes 80 bytes a value."""
    seen: npt.NDArray[Any] | None = None
    total, done = sum(len(batch) for batch in documents), 0
    for batch in documents:
        column = batch.column(name)
        cells = column.to_numpy() if pa.types.is_integer(column.type) else hash_texts(column.cast(pa.large_string()))
        seen = np.empty(total, cells.dtype) if seen is None else seen
        seen[done : done + len(cells)] = cells
        done += len(cells)
        release()
    if seen is None:
        return 0
    seen.sort()
    return 1 + int((seen[1:] != seen[:-1]).sum())

"""Assembles output rows: documents and their vectors, read from the local disk by position, and the counts of a receipt.

    cache_ranges      of each document: its first row in the vector cache, and how many rows
    output_rows       documents -> output rows: which document, which cache row (a document with chunks has several)
    assemble          output rows -> table
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
from workers.dedup.vector_cache import CachedRows
from workers.host.spill_file import Positions, take_rows
from workers.records.shard import TOKEN_BINS
from workers.records.tokens import ranges
from workers.table.schema import CLIPPED, EMBEDDING, ID, NUM_TOKENS, TRUNCATED


@dataclass(frozen=True, slots=True)
class CacheRanges:
    """The cache rows of D documents."""

    first: Positions  # [D]
    count: npt.NDArray[np.int32]  # [D]


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Output rows in their order."""

    document: Positions  # of each row: its document's position among all documents, ascending
    cached: Positions  # of each row: its row in the vector cache

    def __len__(self) -> int:
        return len(self.cached)

    def __getitem__(self, run: slice) -> OutputRows:
        return OutputRows(self.document[run], self.cached[run])


@dataclass(frozen=True, slots=True)
class DocumentTotals:
    """Over all documents of a shard. `token_histogram` counts documents by TOKEN_BINS."""

    distinct_ids: int = 0
    truncated: int = 0
    clipped: int = 0
    token_histogram: tuple[int, ...] = (0,) * (len(TOKEN_BINS) + 1)


def cache_ranges(documents: Sequence[pa.RecordBatch]) -> CacheRanges:
    """Of all documents: [D], D over all batches."""
    if not documents:
        return CacheRanges(np.empty(0, np.int64), np.empty(0, np.int32))
    columns = [batch.column(EMBEDDING) for batch in documents]
    first, count = (np.concatenate([column.field(name).to_numpy() for column in columns]) for name in ("row", "rows"))
    return CacheRanges(first, count)


def output_rows(of: CacheRanges, chosen: Positions) -> OutputRows:
    """Output rows of the documents at the ascending positions `chosen`."""
    first, count = of.first[chosen], of.count[chosen]
    if (count == 1).all():
        return OutputRows(chosen, first)
    return OutputRows(np.repeat(chosen, count), ranges(first, count.astype(np.int64)))


def assemble(documents: Sequence[pa.RecordBatch], cache: CachedRows, rows: OutputRows, schema: pa.Schema) -> pa.Table:
    """The rows, at least one, as a table of `schema`. It is valid while both are open: consecutive rows are not copied."""
    halves = (cache.take(rows.cached), take_rows(documents, rows.document).drop_columns([EMBEDDING]))
    columns = {name: half.column(name) for half in halves for name in half.column_names}  # a kept column may be `clipped`
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def count_documents(documents: Sequence[pa.RecordBatch], cache: CachedRows, release: Callable[[], None]) -> DocumentTotals:
    """Two passes over the documents, and one over the cache's columns of numbers.

    `release` is called after each batch: it drops the pages read so far from memory.
    """
    if not documents:
        return DocumentTotals()
    tokens_R, truncated_R = cache.numbers(NUM_TOKENS), cache.numbers(TRUNCATED)
    clipped_R = cache.numbers(CLIPPED) if CLIPPED in cache.names else None
    bins, truncated, clipped = np.zeros(len(TOKEN_BINS) + 1, np.int64), 0, 0
    for batch in documents:
        of = cache_ranges([batch])
        rows = output_rows(of, np.arange(len(batch))).cached
        starts = np.cumsum(of.count) - of.count  # every document has at least one row
        tokens_D = np.add.reduceat(tokens_R[rows], starts, dtype=np.int64)
        bins += np.bincount(np.searchsorted(TOKEN_BINS, tokens_D), minlength=len(bins))
        truncated += int(np.logical_or.reduceat(truncated_R[rows], starts).sum())
        clipped += 0 if clipped_R is None else int(clipped_R[rows].sum())
        release()
    del tokens_R, truncated_R, clipped_R  # before as much again is needed for the ids
    return DocumentTotals(_distinct(documents, ID, release), truncated, clipped, tuple(bins.tolist()))


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

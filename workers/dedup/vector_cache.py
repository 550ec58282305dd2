"""The vectors of a shard's distinct texts, on the local disk until its parts are written. Cache rows become output rows.

    prefill         rows of earlier parts                      before the first window       -> cache rows 0, 1, ...
    append          rows of the texts that are embedded now    window by window, in order    -> the rows after those
    open            all rows, memory-mapped: any rows by position
    probe_cosine    a few reused texts embedded again: does this device give the vectors that the earlier snapshot holds?

A row holds what the text alone decides (OutputSchema.of_text): vector, number of tokens, the chunk, the token strings. For
int8 also how many components had to be clipped; 0 in prefilled rows, whose own run has counted them. deduplicator.py decides
which text has which rows. Prefilled and appended rows are two files, so that one can be read while the other grows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.dedup.deduplicator import DedupedWindow
from workers.host.spill_file import Positions, SpillFile, take_rows, take_runs
from workers.records.tokens import EncodedTexts, TokenizedTexts, ranges, text_of_rows, text_of_vectors
from workers.table.representations import derived
from workers.table.schema import EMBEDDING, OutputSchema
from workers.table.sparse import INDICES, WEIGHTS, dense_of, dense_rows
from workers.table.vectors import as_float32, cosines, cosines_to_stored, vectors_per_row

GATHERED_ROWS = 8192  # rows in no order are gathered so many at a time: sorted, taken, put back


class CachedRows:
    """An open cache. Tables of consecutive rows are backed by the files, and valid only while it is open."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = batches

    @property
    def names(self) -> list[str]:
        """Columns; none where the cache is empty."""
        return list(self._batches[0].schema.names) if self._batches else []

    def take(self, rows: Positions) -> pa.Table:
        """Any rows in any order, repeated ones too. At least one. Long runs of consecutive rows are not copied."""
        if (table := take_runs(self._batches, rows)) is not None:
            return table
        if (np.diff(rows) >= 0).all():
            return take_rows(self._batches, rows)
        return pa.concat_tables(
            [self._gather(rows[start : start + GATHERED_ROWS]) for start in range(0, len(rows), GATHERED_ROWS)]
        )

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A whole column of numbers or flags, by cache row."""
        return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches])

    def vectors_per_row(self) -> Positions:
        """1, or for lists of vectors, or of entries, their lengths."""
        column = WEIGHTS if WEIGHTS in self.names and EMBEDDING not in self.names else EMBEDDING
        return np.concatenate([vectors_per_row(batch.column(column)) for batch in self._batches])

    def _gather(self, rows: Positions) -> pa.Table:
        order = np.argsort(rows, kind="stable")
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return take_rows(self._batches, rows[order]).take(pa.array(back))


class VectorCache:
    """One shard's. Its files are in `folder`, whose owner removes them."""

    def __init__(self, folder: Path, schema: OutputSchema) -> None:
        self.schema = schema.cache
        self._prefilled = SpillFile(folder / "prefilled.arrow", self.schema)
        self._fresh = SpillFile(folder / "fresh.arrow", self.schema)

    @property
    def rows(self) -> int:
        return self._prefilled.rows + self._fresh.rows

    def prefill(self, table: pa.Table) -> None:
        """Rows of earlier parts. Raises: TransientError: local disk full."""
        self._prefilled.append(table)

    def append(self, table: pa.Table) -> None:
        """Rows of texts embedded now. Raises: TransientError: local disk full."""
        self._fresh.append(table)

    @contextlib.contextmanager
    def open(self) -> Iterator[CachedRows]:
        """All rows; ends appending."""
        with self._prefilled.batches() as prefilled, self._fresh.batches() as fresh:
            yield CachedRows([*prefilled, *fresh])

    @contextlib.contextmanager
    def open_prefilled(self) -> Iterator[CachedRows]:
        """The prefilled rows; appending goes on."""
        with self._prefilled.batches() as prefilled:
            yield CachedRows(prefilled)

    def release(self) -> None:
        """Let go of the pages read so far; what is open stays valid."""
        self._prefilled.release()
        self._fresh.release()

    def close(self) -> None:
        self._prefilled.close()
        self._fresh.close()


def probe_cosine(
    deduped: DedupedWindow, tokens: TokenizedTexts, encoded: EncodedTexts, cached: CachedRows, schema: OutputSchema
) -> float:
    """The smallest cosine between the cached and the fresh vectors of deduped.probes, of which there is at least one.

    Where nearly everything is reused, little else shows a device that computes wrongly. Only the comparison is kept: what
    is written stays what was stored. int8 is compared times its scale, binary by the signs, float16 widened; of a text's
    chunks or tokens the worst vector counts. The main column stands for all: they are made of the same numbers.

    Returns:
        -1 where a text has another number of vectors than it had, or a fresh one is not finite.
    """
    stamp, probes = schema.stamp, deduped.probes
    counts_P = deduped.count_D[probes]
    if schema.sparse:
        return _sparse_probe_cosine(deduped, tokens, encoded, cached, schema)
    column = cached.take(ranges(deduped.row_D[probes], counts_P)).column(EMBEDDING)
    cached_VD = as_float32(column, stamp.vector, stamp.int8_scale)
    probe_V = np.repeat(np.repeat(np.arange(len(probes)), counts_P), vectors_per_row(column))
    text_V = text_of_vectors(tokens, encoded, schema.chunked)
    main = stamp.formats[0]
    worst = 1.0
    for number in range(len(probes)):
        before, now = cached_VD[probe_V == number], encoded.vectors[text_V == len(deduped.new) + number]
        now = derived(now, main, normalize=stamp.normalize)
        same = before.shape == now.shape
        worst = min(worst, float(cosines_to_stored(before, now, stamp.vector).min(initial=1.0)) if same else -1.0)
    return worst


def _sparse_probe_cosine(
    deduped: DedupedWindow, tokens: TokenizedTexts, encoded: EncodedTexts, cached: CachedRows, schema: OutputSchema
) -> float:
    """probe_cosine of sparse vectors; of a text's chunks the worst counts."""
    dim, text_R = schema.stamp.dim, text_of_rows(tokens, schema.chunked)
    if encoded.offsets is None or encoded.indices is None:
        raise ValueError("sparse vectors need the indices of their entries")
    worst = 1.0
    for number, probe in enumerate(deduped.probes):
        first, count = int(deduped.row_D[probe]), int(deduped.count_D[probe])
        table = cached.take(np.arange(first, first + count))
        before = dense_rows(table.column(INDICES), table.column(WEIGHTS), dim)
        rows = np.flatnonzero(text_R == len(deduped.new) + number)
        if len(rows) != count:
            return -1.0
        counts = np.diff(encoded.offsets)[rows]
        own = ranges(encoded.offsets[rows], counts)
        now = dense_of(encoded.vectors[own, 0], encoded.indices[own], counts, dim)
        worst = min(worst, float(np.nan_to_num(cosines(before, now), nan=-1.0).min(initial=1.0)))
    return worst

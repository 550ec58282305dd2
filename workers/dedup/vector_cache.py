"""The vectors of a shard's distinct texts, on the local disk until its parts are written. Shelf rows become output rows.

    seed      rows of earlier parts                        before the first window        -> shelf rows 0, 1, ...
    append    rows of the texts that were embedded now     window by window, in order     -> the rows after those
    open      everything, memory-mapped: any rows by position

A row holds what the text alone decides (OutputSchema.of_text): vector, number of tokens, the chunk, the token strings. For
int8 also how many components had to be clipped; 0 in seeded rows, whose own run has counted them. Which text lies where is
placement.py's matter. Seeding and appending are two files, so that one can be read while the other grows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.host.spill_file import Positions, SpillFile, take_rows
from workers.table.schema import EMBEDDING, OutputSchema
from workers.table.vectors import vectors_per_row

GATHERED_ROWS = 8192  # rows in no order are gathered so many at a time: sorted, taken, put back


class ShelfRows:
    """An open shelf. Tables are backed by the files as far as they are runs of rows, and valid while it is open."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = batches

    @property
    def names(self) -> list[str]:
        """Columns; none where the shelf is empty."""
        return list(self._batches[0].schema.names) if self._batches else []

    def take(self, rows: Positions) -> pa.Table:
        """Any rows in any order, repeated ones too. At least one."""
        if (np.diff(rows) >= 0).all():
            return take_rows(self._batches, rows)
        return pa.concat_tables(
            [self._gather(rows[start : start + GATHERED_ROWS]) for start in range(0, len(rows), GATHERED_ROWS)]
        )

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A whole column of numbers or flags, by shelf row."""
        return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches])

    def vectors_per_row(self) -> Positions:
        """1, or for lists of vectors their lengths."""
        return np.concatenate([vectors_per_row(batch.column(EMBEDDING)) for batch in self._batches])

    def _gather(self, rows: Positions) -> pa.Table:
        order = np.argsort(rows, kind="stable")
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return take_rows(self._batches, rows[order]).take(pa.array(back))


class Shelf:
    """One shard's. Its files are in `folder`, whose owner removes them."""

    def __init__(self, folder: Path, schema: OutputSchema) -> None:
        self.schema = schema.shelf
        self._seeded = SpillFile(folder / "seeded.arrow", self.schema)
        self._fresh = SpillFile(folder / "fresh.arrow", self.schema)

    @property
    def rows(self) -> int:
        return self._seeded.rows + self._fresh.rows

    def seed(self, table: pa.Table) -> None:
        """Rows of earlier parts. Raises: TransientError: local disk full."""
        self._seeded.append(table)

    def append(self, table: pa.Table) -> None:
        """Rows of texts embedded now. Raises: TransientError: local disk full."""
        self._fresh.append(table)

    @contextlib.contextmanager
    def open(self) -> Iterator[ShelfRows]:
        """All rows; ends appending."""
        with self._seeded.batches() as seeded, self._fresh.batches() as fresh:
            yield ShelfRows([*seeded, *fresh])

    @contextlib.contextmanager
    def open_seeded(self) -> Iterator[ShelfRows]:
        """The seeded rows; appending goes on."""
        with self._seeded.batches() as seeded:
            yield ShelfRows(seeded)

    def release(self) -> None:
        """Let go of the pages read so far; what is open stays valid."""
        self._seeded.release()
        self._fresh.release()

    def close(self) -> None:
        self._seeded.close()
        self._fresh.close()

"""A local file that tables are appended to and then read from, memory-mapped, so that a shard need not fit in memory.

The format is Arrow's IPC stream: batches are read without a copy, and dictionaries may differ from batch to batch. Pages of
the mapping count as the process's memory until the system needs it, so a reader of much data calls `release` in between.

    take_rows           rows of the batches by position, ascending
    take_runs           the same in any order, for rows that are mostly consecutive: nothing is copied
    local_disk          errors of the local disk as TransientError, a full one as LocalDiskFull
    own_spill_folder    the folder for this process's files
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa

from workers.errors import LocalDiskFull, TransientError

RUN_ROWS = 16  # mean length of runs from which on a slice each costs the Parquet writer less than copying all rows

Positions = npt.NDArray[np.int64]
"""Row numbers, counted from 0 over all batches."""


class SpillFile:
    """Append tables, then read them once. The file is created with the first row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._mapped: mmap.mmap | None = None
        self.rows = 0

    def append(self, table: pa.Table) -> None:
        """Add rows. Raises: TransientError: disk full or folder gone. ValueError: other columns than the schema's."""
        if not table.num_rows:
            return
        with local_disk(self._path):
            if self._writer is None:
                self._writer = pa.ipc.new_stream(self._path, self._schema)
            self._writer.write_table(table if table.schema == self._schema else table.cast(self._schema))
        self.rows += table.num_rows

    @contextlib.contextmanager
    def batches(self) -> Iterator[list[pa.RecordBatch]]:
        """All batches in the order of appending. Their memory is the mapped file: valid inside the block. Ends appending."""
        self.close()
        if not self.rows:
            yield []
            return
        with local_disk(self._path), self._path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            yield pa.ipc.open_stream(pa.py_buffer(self._mapped)).read_all().to_batches()
        finally:
            self._mapped = None  # unmapped once the last array that refers to it is gone

    def release(self) -> None:
        """Drop the pages read so far from memory. The batches stay valid; pages are read again from the disk's cache."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on macOS
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        if self._writer is not None:
            with local_disk(self._path):
                self._writer.close()
            self._writer = None


def take_rows(batches: Sequence[pa.RecordBatch], rows: Positions) -> pa.Table:
    """The rows at these positions, counted over all batches; at least one.

    Batch by batch, since pyarrow's own take would first join all batches in memory. Consecutive rows are not copied.

    Args:
        rows: [N] ascending; a position may be repeated.
    """
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    borders = np.searchsorted(rows, starts)
    taken = []
    for number in np.flatnonzero(np.diff(borders)).tolist():
        batch, local = batches[number], rows[borders[number] : borders[number + 1]] - starts[number]
        run = local[-1] - local[0] + 1 == len(local) and (np.diff(local) == 1).all()
        taken.append(batch.slice(local[0], len(local)) if run else batch.take(pa.array(local)))
    return pa.Table.from_batches(taken)


def take_runs(batches: Sequence[pa.RecordBatch], rows: Positions) -> pa.Table | None:
    """The rows, at least one, in any order, as slices of the batches; None where runs are so short that copying costs less.

    Args:
        rows: [N] positions counted over all batches; in a run each is one more than the one before.
    """
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    if (len(breaks) + 1) * RUN_ROWS > max(len(rows), RUN_ROWS):
        return None
    borders = np.concatenate([[0], breaks, [len(rows)]])
    starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
    slices = []
    for first, count in zip(rows[borders[:-1]].tolist(), np.diff(borders).tolist(), strict=True):
        number, stop = bisect.bisect_right(starts, first) - 1, first + count
        while first < stop:
            end = min(stop, starts[number + 1])
            slices.append(batches[number].slice(first - starts[number], end - first))
            first, number = end, number + 1
    return pa.Table.from_batches(slices)


@contextlib.contextmanager
def local_disk(path: Path) -> Iterator[None]:
    """Translate OSError into a TransientError that names the folder: another machine may have space, or this one later."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        told = f"spill folder {path.parent}: {reason}; free space there, or use a larger disk"
        raise (LocalDiskFull if no_room(error) else TransientError)(told) from error


def no_room(error: OSError) -> bool:
    """Whether a disk or quota is used up. pyarrow's errors have the number too."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def own_spill_folder() -> Path:
    """This process's folder under the temporary directory. Removes folders that killed processes have left behind."""
    parent = Path(tempfile.gettempdir()) / "reembed-spool"
    with local_disk(parent / "x"):
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.iterdir():
            if folder.name.isdecimal() and not psutil.pid_exists(int(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
        own = parent / str(os.getpid())
        own.mkdir(exist_ok=True)
    return own

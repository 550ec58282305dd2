"""A local file that tables are appended to and read back from memory-mapped: what keeps a shard out of memory.

Arrow IPC stream format, so batches come back without a copy and dictionaries may differ from batch to batch. Mapped pages
count as the process' memory until somebody else needs it: whoever reads much at a time calls `release` in between.
"""

from __future__ import annotations

import contextlib
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

from workers.errors import TransientError

Positions = npt.NDArray[np.int64]
"""Row numbers, counted from 0 over all batches."""


class SpillFile:
    """Append, then read once. Nothing is on disk before the first row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._mapped: mmap.mmap | None = None
        self.rows = 0

    def append(self, table: pa.Table) -> None:
        """Raises: TransientError: disk full or folder gone. ValueError: other columns than this spool's."""
        if not table.num_rows:
            return
        with local_disk(self._path):
            if self._writer is None:
                self._writer = pa.ipc.new_stream(self._path, self._schema)
            self._writer.write_table(table if table.schema == self._schema else table.cast(self._schema))
        self.rows += table.num_rows

    @contextlib.contextmanager
    def batches(self) -> Iterator[list[pa.RecordBatch]]:
        """All batches in the order of appending, backed by the file; valid inside the block."""
        self.close()
        if not self.rows:
            yield []
            return
        with local_disk(self._path), self._path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            yield pa.ipc.open_stream(pa.py_buffer(self._mapped)).read_all().to_batches()
        finally:
            self._mapped = None  # unmapped once the last array that lies in it is gone

    def release(self) -> None:
        """Let go of the pages read so far; the batches stay valid, what is read again comes from the disk's cache."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on macOS
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        if self._writer is not None:
            with local_disk(self._path):
                self._writer.close()
            self._writer = None


def take_rows(batches: Sequence[pa.RecordBatch], rows: Positions) -> pa.Table:
    """Rows by ascending position, repeated ones too. At least one.

    Batch by batch: pyarrow's own take would first join the whole spool in memory. Runs are not copied.
    """
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    borders = np.searchsorted(rows, starts)
    taken = []
    for number in np.flatnonzero(np.diff(borders)).tolist():
        batch, local = batches[number], rows[borders[number] : borders[number + 1]] - starts[number]
        run = local[-1] - local[0] + 1 == len(local) and (np.diff(local) == 1).all()
        taken.append(batch.slice(local[0], len(local)) if run else batch.take(pa.array(local)))
    return pa.Table.from_batches(taken)


@contextlib.contextmanager
def local_disk(path: Path) -> Iterator[None]:
    """Name the folder in errors of the local disk: a full disk passes on another machine, or once there is room."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TransientError(f"spill folder {path.parent}: {reason}; free space there, or use a larger disk") from error


def own_spill_folder() -> Path:
    """A folder of this process under the temporary directory; those that killed processes left behind are removed first."""
    parent = Path(tempfile.gettempdir()) / "reembed-spool"
    with local_disk(parent / "x"):
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.iterdir():
            if folder.name.isdecimal() and not psutil.pid_exists(int(folder.name)):
                shutil.rmtree(folder, ignore_errors=True)
        own = parent / str(os.getpid())
        own.mkdir(exist_ok=True)
    return own

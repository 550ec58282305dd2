"""Rows of a few 64-bit words each, on the local disk, in buckets that are read back one at a time.

What is compared is dealt to buckets by its key, so each bucket can be compared by itself: memory holds one, however many
rows there are. Rows of a bucket come back in no certain order; each holds its place, by which its reader sorts.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.host.spill_file import local_disk

Rows = NDArray[np.uint64]
HELD_BYTES = 64 << 20  # before they are written: many small writes cost more than one


class Buckets:
    """`count` buckets of rows of `width` words. May be appended to from many threads; read once that has ended."""

    def __init__(self, folder: Path, name: str, count: int, width: int) -> None:
        self._folder, self._name, self._width = folder, name, width
        self.count = count
        self._held: dict[int, list[Rows]] = {}
        self._held_bytes = 0
        self._lock = threading.Lock()

    def append(self, numbers: NDArray[np.int64], rows: Rows) -> None:
        """`numbers`: [N] the bucket of each row. Raises: TransientError: the local disk is full."""
        order = np.argsort(numbers, kind="stable")
        borders = np.searchsorted(numbers[order], np.arange(self.count + 1))
        with self._lock:
            for number in np.flatnonzero(np.diff(borders)).tolist():
                mine = rows[order[borders[number] : borders[number + 1]]]
                self._held.setdefault(number, []).append(mine)
                self._held_bytes += mine.nbytes
            if self._held_bytes > HELD_BYTES:
                self._write()

    def read(self, number: int) -> Rows:
        """[N, width] all rows of a bucket."""
        with self._lock:
            self._write()
        path = self._path(number)
        if not path.exists():
            return np.empty((0, self._width), np.uint64)
        with local_disk(path):
            return np.fromfile(path, np.uint64).reshape(-1, self._width)

    def _write(self) -> None:
        for number, held in self._held.items():
            path = self._path(number)
            with local_disk(path), path.open("ab") as stream:
                for rows in held:
                    stream.write(np.ascontiguousarray(rows).data)
        self._held, self._held_bytes = {}, 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number}"

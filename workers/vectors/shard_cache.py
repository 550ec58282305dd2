"""Shards that an actor has read: in memory up to a limit, then mapped from files on the local disk.

The first pass reads a shard from the store, later ones find it here. What was used longest ago leaves memory first. The
operating system keeps pages of the files in memory while it has room.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.host.spill_file import local_disk
from workers.vectors.shard_rows import ShardRows


class ShardCache:
    """By shard number. Thread-safe; two threads never ask for the same shard.

    Args:
        folder: on the local disk; it is the caller's to remove.
        memory_bytes: of vectors held in memory; at least one shard is.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder, self._limit = folder, memory_bytes
        self._known: OrderedDict[int, ShardRows] = OrderedDict()  # the one used last is the last
        self._in_memory: OrderedDict[int, int] = OrderedDict()  # shard -> bytes
        self._maps: dict[int, list[mmap.mmap]] = {}  # of the shards on disk, by part
        self._lock = threading.Lock()

    def get(self, number: int, load: Callable[[], ShardRows]) -> ShardRows:
        """The shard; `load` reads it. Raises: what `load` raises. TransientError: local disk full."""
        with self._lock:
            if number in self._in_memory:
                self._in_memory.move_to_end(number)
            rows = self._known.get(number)
        if rows is None:
            rows = load()
            with self._lock:
                self._known[number] = rows
                self._in_memory[number] = rows.stored_bytes
                leaving = self._leaving()
            for other in leaving:
                self._move_to_disk(other)
        return rows

    def forget(self) -> None:
        """Release everything, but for the files."""
        with self._lock:
            self._known.clear()
            self._in_memory.clear()
            self._maps.clear()

    def _leaving(self) -> list[int]:
        leaving = []
        while len(self._in_memory) > 1 and sum(self._in_memory.values()) > self._limit:
            leaving.append(self._in_memory.popitem(last=False)[0])
        return leaving

    def release(self, number: int) -> None:
        """A call has ended: pages of the shard's files are the system's again. They stay in its cache while it has room."""
        for pages in self._maps.get(number, ()):
            if hasattr(pages, "madvise"):
                pages.madvise(mmap.MADV_DONTNEED)

    def _move_to_disk(self, number: int) -> None:
        mapped: list[NDArray[Any]] = []
        maps: list[mmap.mmap] = []
        for at, stored in enumerate(self._known[number].stored):
            path = self._folder / f"{number}-{at}.vectors"
            with local_disk(path):
                stored.tofile(path)
            if stored.size:
                with path.open("rb") as stream:
                    maps.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
                mapped.append(np.frombuffer(maps[-1], stored.dtype).reshape(stored.shape))
            else:
                mapped.append(stored)
        self._maps[number] = maps
        self._known[number].stored = mapped

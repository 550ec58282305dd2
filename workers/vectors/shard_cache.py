"""Shards that an actor has read: in memory up to a limit, then mapped from files on the local disk.

The first pass reads a shard from the store, later ones find it here. What was used longest ago leaves memory first. The
operating system keeps pages of the files in memory while it has room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

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

    def _leaving(self) -> list[int]:
        leaving = []
        while len(self._in_memory) > 1 and sum(self._in_memory.values()) > self._limit:
            leaving.append(self._in_memory.popitem(last=False)[0])
        return leaving

    def _move_to_disk(self, number: int) -> None:
        mapped = []
        for at, stored in enumerate(self._known[number].stored):
            path = self._folder / f"{number}-{at}.npy"
            with local_disk(path):
                np.save(path, stored)
            mapped.append(np.load(path, mmap_mode="r", allow_pickle=False) if len(stored) else stored)
        self._known[number].stored = mapped

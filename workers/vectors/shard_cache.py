"""Shards that an actor has read: in memory up to a limit, then mapped from files on the local disk.

    ShardCache   shards by number
    mapped       a value with its arrays in a file

The first pass reads a shard from the store, later ones find it here. What was used longest ago leaves memory first: vectors,
columns, and what passes have remembered of its rows. The operating system keeps pages of the files while it has room.
"""

from __future__ import annotations

import itertools
import mmap
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from workers.host.spill_file import local_disk
from workers.vectors.shard_rows import ShardRows

ALIGNMENT = 64  # bytes: as Arrow wants its buffers
_Value = TypeVar("_Value")


class ShardCache:
    """By shard number. Thread-safe; two threads never ask for the same shard.

    Args:
        folder: on the local disk; it is the caller's to remove.
        memory_bytes: of vectors and columns held in memory; at least one shard is.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder, self._limit = folder, memory_bytes
        self._known: OrderedDict[int, ShardRows] = OrderedDict()  # the one used last is the last
        self._in_memory: OrderedDict[int, int] = OrderedDict()  # shard -> bytes
        self._maps: dict[int, list[mmap.mmap]] = {}  # of the shards on disk
        self._files = itertools.count()
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
                leaving = [(other, self._known[other], self._maps.setdefault(other, [])) for other in self._leaving()]
            for other, its_rows, maps in leaving:  # another thread may drop it meanwhile
                its_rows.leave_memory(partial(self._to_disk, other, maps))
        return rows

    def forget(self) -> None:
        """Release everything, but for the files."""
        with self._lock:
            self._known.clear()
            self._in_memory.clear()
            self._maps.clear()

    def drop(self, number: int) -> None:
        """A shard that is not needed again. Its file stays until the folder is removed."""
        with self._lock:
            self._known.pop(number, None)
            self._in_memory.pop(number, None)
            self._maps.pop(number, None)

    def release(self, number: int) -> None:
        """A call has ended: pages of the shard's files are the system's again. They stay in its cache while it has room.

        Raises: TransientError: local disk full.
        """
        maps, rows = self._maps.get(number), self._known.get(number)
        if maps is None or rows is None:
            return
        rows.map_remembered(partial(self._to_disk, number, maps))
        for pages in list(maps):
            if hasattr(pages, "madvise"):
                pages.madvise(mmap.MADV_DONTNEED)

    def _leaving(self) -> list[int]:
        leaving = []
        while len(self._in_memory) > 1 and sum(self._in_memory.values()) > self._limit:
            leaving.append(self._in_memory.popitem(last=False)[0])
        return leaving

    def _to_disk(self, number: int, maps: list[mmap.mmap], value: _Value) -> _Value:
        value, pages = mapped(value, self._folder / f"{number}-{next(self._files)}.rows")
        if pages is not None:
            maps.append(pages)
        return value


def mapped(value: _Value, path: Path) -> tuple[_Value, mmap.mmap | None]:
    """The same value with its arrays (NumPy's, Arrow's) in a new file, not to be changed; and that file's pages, if any.

    Pickle finds the arrays (PEP 574). What it writes of the rest stays in this process. Raises: TransientError: disk full.
    """
    arrays: list[pickle.PickleBuffer] = []
    plain = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    spans, end = [], 0
    with local_disk(path), path.open("wb") as stream:
        for array in arrays:
            content = array.raw()
            stream.write(bytes(-end % ALIGNMENT))
            start = end + -end % ALIGNMENT
            stream.write(content)
            end = start + content.nbytes
            spans.append((start, end))
    if not end:
        path.unlink()
        return value, None
    with path.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(pages)
    return pickle.loads(plain, buffers=[view[start:stop] for start, stop in spans]), pages  # noqa: S301 - written above

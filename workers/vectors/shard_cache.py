"""Shards that an actor has read: in memory up to a limit, then mapped from files on the local disk.

    ShardCache   shards by number
    mapped       a value with its arrays in files

The first pass reads a shard from the store, later ones find it here. What was used longest ago leaves memory first: vectors,
columns, and what passes have remembered of its rows. The operating system keeps pages of the files while it has room.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workers.host.spill_file import local_disk
from workers.vectors.shard_rows import ShardRows

Buffer = Any
"""Bytes, or what has them: a memoryview, an Arrow buffer."""


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

    def _to_disk(self, number: int, maps: list[mmap.mmap], value: Any) -> Any:
        def put(content: Buffer) -> memoryview:
            path = self._folder / f"{number}-{next(self._files)}.rows"
            with local_disk(path):
                path.write_bytes(content)
            with path.open("rb") as stream:
                pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            maps.append(pages)  # another thread, whose call for this shard ends, may append one of its own now
            return memoryview(pages)

        return mapped(value, put)


def mapped(value: Any, put: Callable[[Buffer], memoryview]) -> Any:
    """The same value with its arrays (NumPy's, Arrow's) where `put` has put them, one by one; they cannot be changed then.

    Looks into dictionaries, lists, tuples and dataclasses; what else they hold stays as it is.
    """
    match value:
        case np.ndarray():
            if value.dtype.hasobject or not value.nbytes:
                return value
            return np.frombuffer(put(np.ascontiguousarray(value).data.cast("B")), value.dtype).reshape(value.shape)
        case pa.Table():
            return _mapped_table(value, put) if value.nbytes else value
        case pa.Array():
            chunks = mapped(pa.table({"values": value}), put).column(0).chunks
            return chunks[0] if len(chunks) == 1 else value
        case dict():
            return {name: mapped(item, put) for name, item in value.items()}
        case list() | tuple() if type(value) in (list, tuple):
            return type(value)([mapped(item, put) for item in value])
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: mapped(item, put) for name, item in held.items()})
    return value


def _mapped_table(table: pa.Table, put: Callable[[Buffer], memoryview]) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(pa.py_buffer(put(sink.getvalue()))).read_all()

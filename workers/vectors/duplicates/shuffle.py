"""Shuffle: files by which the shards and units of one pass send records to those of a later pass.

Each sender writes one file to the scratch folder: records sorted by destination (stable), behind the offsets of all
destinations. A receiver reads its range of every sender's file, in order of senders, so what it sees does not depend on
who ran when. A sender that is repeated writes the same bytes under the same name.

    file = MAGIC, int64[destinations + 1] record offsets, records
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from workers.errors import ReembedError, RunAborted
from workers.records.shard import shard_name
from workers.vectors.workplace import Workplace

MAGIC = b"reembed1"
READERS = 8  # files that are read at once: a range of an object store takes tens of milliseconds
READ_AHEAD = 64 << 10  # bytes: ranges are read exactly, so more would be read for nothing
Records = NDArray[Any]
_Of = TypeVar("_Of")


@dataclass(frozen=True)
class Places:
    """Where the rows of the snapshot are: row numbers count all rows, in order of shards."""

    numbers: tuple[int, ...]  # of the shards that have rows, ascending
    first_rows: tuple[int, ...]  # of each of these shards
    rows: int  # in all

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place (index in `numbers`) of the shard that holds each row."""
        return np.searchsorted(np.asarray(self.first_rows, np.int64), rows, side="right") - 1

    def of_shard(self, number: int) -> int:
        return self.numbers.index(number)


@dataclass(frozen=True)
class Shuffle:
    """Records of one kind on their way. `name`: of their folder. `dtype`: of a record, packed and little-endian."""

    name: str
    destinations: int
    dtype: np.dtype[Any]

    def write(self, workplace: Workplace, sender: int, to: NDArray[np.int64], records: Records) -> None:
        """`to`: [N] destination of each record. Raises: StorageFull, UsageError, TransientError."""
        order = np.argsort(to, kind="stable")
        counts = np.bincount(to, minlength=self.destinations)
        self._put(workplace, sender, counts, records[order].tobytes())

    def write_bytes(self, workplace: Workplace, sender: int, pieces: Sequence[bytes]) -> None:
        """The same for a shuffle of bytes (dtype u1): one piece a destination."""
        self._put(workplace, sender, np.array([len(piece) for piece in pieces], np.int64), b"".join(pieces))

    def _put(self, workplace: Workplace, sender: int, counts: NDArray[Any], data: bytes) -> None:
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
        workplace.output.put(self._path(workplace, sender), MAGIC + offsets.tobytes() + data)

    def offsets(self, workplace: Workplace, senders: Sequence[int], first: int, stop: int) -> NDArray[np.int64]:
        """[senders, stop - first + 1] where the records of these destinations begin and end in each file."""
        if not senders:
            return np.zeros((0, stop - first + 1), np.int64)

        def read(sender: int) -> NDArray[np.int64]:
            data = self._range(workplace, sender, len(MAGIC) + 8 * first, 8 * (stop - first + 1))
            return np.frombuffer(data, "<i8").astype(np.int64)

        return np.stack(_at_once(read, senders))

    def records(self, workplace: Workplace, sender: int, start: int, stop: int) -> Records:
        """Records by their position in one sender's file."""
        if start == stop:
            return np.empty(0, self.dtype)
        size = self.dtype.itemsize
        begin = len(MAGIC) + 8 * (self.destinations + 1) + start * size
        return np.frombuffer(self._range(workplace, sender, begin, (stop - start) * size), self.dtype)

    def read(self, workplace: Workplace, senders: Sequence[int], first: int, stop: int) -> Records:
        """All records for these destinations: sender after sender, each sorted by destination."""
        spans = self.offsets(workplace, senders, first, stop)[:, [0, -1]]
        pieces = _at_once(
            lambda at: self.records(workplace, senders[at], int(spans[at, 0]), int(spans[at, 1])), range(len(senders))
        )
        return np.concatenate([np.empty(0, self.dtype), *pieces])

    def _path(self, workplace: Workplace, sender: int) -> str:
        return f"{workplace.scratch}/{self.name}/{shard_name(sender)}"

    def _range(self, workplace: Workplace, sender: int, start: int, size: int) -> bytes:
        path = self._path(workplace, sender)
        try:
            with workplace.output.open(path, block=READ_AHEAD) as stream:
                stream.seek(start)
                data = stream.read(size)
        except FileNotFoundError as error:
            where = workplace.output.uri_of(workplace.scratch)
            raise RunAborted(f"{error}: gone; {where} was deleted while the job ran: start the job anew") from error
        if len(data) != size:
            raise ReembedError(f"{workplace.output.uri_of(path)}: {len(data)} of {size} bytes at {start}: it was cut short")
        return data


def _at_once(read: Callable[[int], _Of], what: Iterable[int]) -> list[_Of]:
    """Results in order."""
    items = list(what)
    if len(items) < 2:
        return [read(item) for item in items]
    with ThreadPoolExecutor(READERS, thread_name_prefix="shuffle") as pool:
        return list(pool.map(read, items))

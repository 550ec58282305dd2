"""Shuffle: files by which the shards and units of one pass send records to those of a later pass.

Each sender writes one file to the scratch folder: records sorted by destination (stable), behind the offsets of all
destinations. A receiver reads its range of every sender's file, in order of senders, so what it sees does not depend on
who ran when. A sender that is repeated writes the same bytes under the same name. merge.py makes many files fewer.

    Shuffle    the kind of record, and the writing of files
    Sent       files that were written, and their reading

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
        self.put(workplace, sender, counts, records[order].tobytes())

    def write_bytes(self, workplace: Workplace, sender: int, pieces: Sequence[bytes]) -> None:
        """The same for a shuffle of bytes (dtype u1): one piece a destination."""
        self.put(workplace, sender, np.array([len(piece) for piece in pieces], np.int64), b"".join(pieces))

    def put(self, workplace: Workplace, sender: int, counts: NDArray[Any], data: bytes) -> None:
        """`counts`: [destinations] records in `data`, which is sorted by destination. Raises: as write()."""
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
        workplace.output.put(self.path(workplace, sender), MAGIC + offsets.tobytes() + data)

    def sent_by(self, senders: Iterable[int]) -> Sent:
        """The files of these senders."""
        return Sent(self, tuple(senders))

    def path(self, workplace: Workplace, sender: int) -> str:
        return f"{self.folder(workplace)}/{shard_name(sender)}"

    def folder(self, workplace: Workplace) -> str:
        """Of all senders' files."""
        return f"{workplace.scratch}/{self.name}"

    @property
    def header_bytes(self) -> int:
        """Of a file, before its records."""
        return len(MAGIC) + 8 * (self.destinations + 1)


@dataclass(frozen=True)
class Sent:
    """Files of a shuffle in the order in which they are read: that of the senders."""

    shuffle: Shuffle
    files: tuple[int, ...]

    def read(self, workplace: Workplace, first: int, stop: int) -> Records:
        """All records for these destinations: file after file, each sorted by destination."""
        spans = self.offsets(workplace, first, stop)[:, [0, -1]]
        return np.concatenate([np.empty(0, self.shuffle.dtype), *self.pieces(workplace, spans)])

    def offsets(self, workplace: Workplace, first: int, stop: int) -> NDArray[np.int64]:
        """[files, stop - first + 1] where the records of these destinations begin and end in each file."""
        if not self.files:
            return np.zeros((0, stop - first + 1), np.int64)

        def read(file: int) -> NDArray[np.int64]:
            data = self._range(workplace, file, len(MAGIC) + 8 * first, 8 * (stop - first + 1))
            return np.frombuffer(data, "<i8").astype(np.int64)

        return np.stack(_at_once(read, self.files))

    def pieces(self, workplace: Workplace, spans: NDArray[np.int64]) -> list[Records]:
        """The records at these positions of each file. `spans`: [files, 2]; an empty span is not asked for."""
        return _at_once(lambda at: self.records(workplace, at, *spans[at].tolist()), range(len(self.files)))

    def records(self, workplace: Workplace, at: int, start: int, stop: int) -> Records:
        """Records by their position in one of the files; `at`: its place in `files`."""
        if start == stop:
            return np.empty(0, self.shuffle.dtype)
        size = self.shuffle.dtype.itemsize
        data = self._range(workplace, self.files[at], self.shuffle.header_bytes + start * size, (stop - start) * size)
        return np.frombuffer(data, self.shuffle.dtype)

    def whole(self, workplace: Workplace) -> list[tuple[NDArray[np.int64], bytes]]:
        """Of each file the offsets [destinations + 1], and the bytes of all its records. One request a file."""
        return _at_once(lambda file: self._whole(workplace, file), self.files)

    def _whole(self, workplace: Workplace, file: int) -> tuple[NDArray[np.int64], bytes]:
        try:
            data = workplace.output.read(self.shuffle.path(workplace, file))
        except FileNotFoundError as error:
            raise gone(workplace, error) from error
        before = self.shuffle.header_bytes
        if len(data) < before:
            raise self._cut(workplace, file, len(data), before, 0)
        offsets = np.frombuffer(data, "<i8", self.shuffle.destinations + 1, len(MAGIC)).astype(np.int64)
        expected = before + int(offsets[-1]) * self.shuffle.dtype.itemsize
        if len(data) != expected:
            raise self._cut(workplace, file, len(data), expected, 0)
        return offsets, data[before:]

    def _range(self, workplace: Workplace, file: int, start: int, size: int) -> bytes:
        try:
            data = workplace.output.read_range(self.shuffle.path(workplace, file), start, size)
        except FileNotFoundError as error:
            raise gone(workplace, error) from error
        if len(data) != size:
            raise self._cut(workplace, file, len(data), size, start)
        return data

    def _cut(self, workplace: Workplace, file: int, found: int, expected: int, start: int) -> ReembedError:
        where = workplace.output.uri_of(self.shuffle.path(workplace, file))
        return ReembedError(f"{where}: {found} of {expected} bytes at {start}: it was cut short")


def gone(workplace: Workplace, what: object) -> RunAborted:
    """A file that an earlier pass wrote is not there."""
    where = workplace.output.uri_of(workplace.scratch)
    return RunAborted(f"{what}: gone; {where} was deleted while the job ran: start the job anew")


def _at_once(read: Callable[[int], _Of], what: Iterable[int]) -> list[_Of]:
    """Results in order."""
    items = list(what)
    if len(items) < 2:
        return [read(item) for item in items]
    with ThreadPoolExecutor(READERS, thread_name_prefix="shuffle") as pool:
        return list(pool.map(read, items))

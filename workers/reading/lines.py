"""Bytes of an object -> its lines, in bounded memory whatever the object holds.

    SourceStream -> (decompression) -> blocks of 1 MiB -> lines with the byte offset of their first byte

A byte range is read the Hadoop way: a line belongs to the range in which its first byte lies, so ranges that tile an object
yield each line once wherever they are cut. A line longer than the limit is skipped while it streams by and comes out as a
LongLine. Lines end with \\n (\\r\\n included); a UTF-8 byte order mark at the start of the object is dropped.
Knows nothing of what is in a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from workers.errors import ObjectError, one_line
from workers.reading.signatures import BOM as BOM
from workers.reading.signatures import empty_error, zstd_frame_error
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BLOCK_BYTES = 1 << 20
LINE_OVERHEAD = 1 << 20  # a line may be this much longer than the longest text: keys, other columns, escapes
CR_ALONE = "its lines end with CR alone; convert it, e.g. by `tr '\\r' '\\n'`"
QUOTE = b'"'


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line beyond the limit, of which only the measures are known."""

    size: int
    quotes: int  # how many quotes it holds: what a CSV record needs to know whether it is still inside a quoted field


Line = tuple[int, bytes | LongLine]
"""Byte offset of the first byte (of the decompressed object), and the line with its line end."""


Count = Callable[[bytes], int]


def count_quotes(data: bytes) -> int:
    """What a LongLine counts by default."""
    return data.count(QUOTE)


class Damaged(Exception):
    """The compressed stream is truncated or corrupt; the reader of rows adds how far it came."""


def is_blank(line: bytes) -> bool:
    """Whether a line of JSONL or text is no row at all: nothing but ASCII white space."""
    return not line or line.isspace()


def cr_alone(head: bytes, complete: bool) -> bool:
    """Whether an object that begins so (`complete`: that is all of it) has lines that end with CR alone, as old Macs wrote
    them. To all readers here it would be one line."""
    return b"\n" not in head and head.rstrip(b"\r").count(b"\r") >= (1 if complete else 2)


class _Borrowed:
    """A stream that its decoder may read and not close: the object can be opened again from its start."""

    closed = False

    def __init__(self, stream: SourceStream) -> None:
        self.read = stream.read

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The owner closes it."""


def open_bytes(stream: SourceStream, compression: str | None) -> Callable[[int], bytes]:
    """A read function over the decompressed bytes from the object's start; concatenated members are one stream.

    Its reads raise Damaged, or the storage failure.

    Raises:
        ObjectError: compressed and zero bytes long. Also by a read: a zstd frame that cannot be held in memory.
    """
    stream.seek(0)
    if compression is None:
        return stream.read
    if stream.size == 0:
        raise ObjectError(stream.uri, empty_error(compression))
    decoder = pa.CompressedInputStream(pa.PythonFile(_Borrowed(stream), mode="r"), compression)

    def read(count: int) -> bytes:
        try:
            return bytes(decoder.read(count))
        except (pa.ArrowException, OSError) as error:
            if stream.failure is not None:
                raise stream.failure from None
            if "too much memory" in str(error):  # of a later frame: the first one is looked at beforehand
                raise ObjectError(stream.uri, zstd_frame_error()) from None
            raise Damaged(one_line(error)) from None

    return read


def read_lines(
    stream: SourceStream, piece: ObjectSlice, compression: str | None, limit: int, count: Count = count_quotes
) -> Iterator[Line]:
    """The lines of a slice. Compressed objects are read whole: their slice is never a part. `count`: what LongLine counts.

    Raises:
        Damaged, ObjectError, TransientError.
    """
    if piece.start == 0:
        stop = None if compression else piece.stop
        yield from split_lines(open_bytes(stream, compression), 0, stop, limit, count)
        return
    stream.seek(piece.start - 1)  # one byte earlier: a line that begins exactly at `start` is ours
    lines = split_lines(stream.read, piece.start - 1, piece.stop, limit, count)
    next(lines, None)
    yield from lines


def split_lines(
    read: Callable[[int], bytes], offset: int, stop: int | None, limit: int, count: Count = count_quotes
) -> Iterator[Line]:
    """Lines whose first byte lies before `stop` (None: all). `offset` is where `read` stands."""
    start = offset  # of the line being gathered
    pending: list[bytes] = []  # its bytes so far, from earlier blocks
    size = quotes = 0  # of the line being gathered; quotes only counted once it is too long
    while stop is None or start < stop:
        block = read(BLOCK_BYTES)
        if not block:
            break
        begin = 0
        while (end := block.find(b"\n", begin) + 1) > 0:
            if not size and end - begin <= limit:
                line: bytes | LongLine = block[begin:end]
                length = end - begin
            else:
                length = size + end - begin
                pending.append(block[begin:end])
                line = b"".join(pending) if length <= limit else LongLine(length, quotes + count(b"".join(pending)))
                pending, size, quotes = [], 0, 0
            yield start, line if start or isinstance(line, LongLine) else line.removeprefix(BOM)
            start += length
            begin = end
            if stop is not None and start >= stop:
                return
        if begin < len(block):
            pending.append(block[begin:])
            size += len(block) - begin
            if size > limit:
                quotes += count(b"".join(pending))
                pending = []
    if size:
        last = b"".join(pending) if size <= limit else LongLine(size, quotes + count(b"".join(pending)))
        yield start, last if start or isinstance(last, LongLine) else last.removeprefix(BOM)

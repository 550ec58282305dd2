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

from workers.errors import ObjectError
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BLOCK_BYTES = 1 << 20
LINE_OVERHEAD = 1 << 20  # a line may be this much longer than the longest text: keys, other columns, escapes
BOM = b"\xef\xbb\xbf"
QUOTE = b'"'


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line beyond the limit, of which only the measures are known."""

    size: int
    quotes: int  # how many `"` it holds: what a CSV record needs to know whether it is still inside a quoted field


Line = tuple[int, bytes | LongLine]
"""Byte offset of the first byte (of the decompressed object), and the line with its line end."""


class Damaged(Exception):
    """The compressed stream is truncated or corrupt; the reader of rows adds how far it came."""


def is_blank(line: bytes) -> bool:
    """Whether a line of JSONL or text is no row at all: nothing but ASCII white space."""
    return not line or line.isspace()


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
        ObjectError: compressed and zero bytes long, which no compressor writes.
    """
    stream.seek(0)
    if compression is None:
        return stream.read
    if stream.size == 0:
        raise ObjectError(stream.uri, f"empty where {compression} was expected; upload it again")
    decoder = pa.CompressedInputStream(pa.PythonFile(_Borrowed(stream), mode="r"), compression)

    def read(count: int) -> bytes:
        try:
            return bytes(decoder.read(count))
        except (pa.ArrowException, OSError) as error:
            if stream.failure is not None:
                raise stream.failure from None
            raise Damaged(" ".join(str(error).split())[:200]) from None

    return read


def read_lines(stream: SourceStream, piece: ObjectSlice, compression: str | None, limit: int) -> Iterator[Line]:
    """The lines of a slice. Compressed objects are read whole: their slice is never a part.

    Raises:
        Damaged, ObjectError, TransientError.
    """
    read = open_bytes(stream, compression)
    if compression is not None:
        yield from split_lines(read, 0, None, limit)
        return
    if piece.start:
        stream.seek(piece.start - 1)  # one byte earlier: a line that begins exactly at `start` is ours
    lines = split_lines(read, max(0, piece.start - 1), piece.stop, limit)
    if piece.start:
        next(lines, None)
    yield from lines


def split_lines(read: Callable[[int], bytes], offset: int, stop: int | None, limit: int) -> Iterator[Line]:
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
                line = b"".join(pending) if length <= limit else LongLine(length, quotes + _quotes(pending))
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
                quotes += _quotes(pending)
                pending = []
    if size:
        last = b"".join(pending) if size <= limit else LongLine(size, quotes + _quotes(pending))
        yield start, last if start or isinstance(last, LongLine) else last.removeprefix(BOM)


def _quotes(parts: list[bytes]) -> int:
    return sum(part.count(QUOTE) for part in parts)

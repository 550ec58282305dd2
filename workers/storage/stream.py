"""One source object as a readable, seekable stream that remembers storage failures.

    open_object (fixed size and etag) -> SourceStream -> pyarrow (Parquet, decompression) or the line splitter

pyarrow wraps the errors of the stream that it reads. The stream therefore keeps the original failure, and `decoding` raises
it again: a store that did not answer is a TransientError (try again), wrong bytes are an ObjectError (the object is to
blame). An object that ends early is a storage failure too, because its size is known. Knows nothing of formats and rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import pyarrow as pa

from workers.errors import ObjectError, ObjectMissing, ReembedError, TransientError, one_line
from workers.records.shard import ObjectSlice
from workers.storage.client import READ_BLOCK_BYTES, translated
from workers.storage.objects import open_object
from workers.storage.uris import redact

EXACT = 1  # read-ahead in bytes for callers that ask for the ranges they need (Parquet); 0 means streaming to some stores
LEAST_BYTES = 1 << 20  # small reads of such callers fetch this much at once, so that neighbouring reads need no request
HELD_BLOCKS = 4  # kept for later reads, because a reader alternates between columns


class SourceStream:
    """A file-like object: read, seek, tell, close. `failure` is the last storage failure, or None."""

    def __init__(self, stream: IO[bytes], uri: str, size: int, least: int = 0) -> None:
        self.uri = redact(uri)
        self.size = size
        self.failure: ReembedError | None = None
        self.closed = False
        self._stream = stream
        self._position = 0
        self._least = least
        self._held: list[tuple[int, bytes]] = []
        self._head = b""

    @classmethod
    def open(cls, piece: ObjectSlice, options: Mapping[str, Any], *, exact: bool) -> SourceStream:
        """Open the object of a slice.

        Args:
            exact: for callers that seek: no read-ahead, small reads are served from blocks of LEAST_BYTES.

        Raises:
            ObjectMissing, ObjectChanged, UsageError, TransientError.
        """
        ahead = EXACT if exact else max(1 << 16, min(READ_BLOCK_BYTES, piece.stop - piece.start))
        stream = open_object(piece.uri, piece.size, piece.etag, options, block=ahead)
        return cls(stream, piece.uri, piece.size, LEAST_BYTES if exact else 0)

    def read(self, count: int = -1) -> bytes:
        """`count` bytes, fewer only at the end of the object.

        Raises:
            ObjectMissing, ObjectError, UsageError, TransientError.
        """
        left = max(0, self.size - self._position)
        count = left if count < 0 else min(count, left)
        if count == 0:
            return b""
        held = self._head[self._position : self._position + count]
        start, count = self._position + len(held), count - len(held)
        if count:
            data = self._fetch(start, count) if count >= self._least else self._share(start, count)
            held = held + data if held else data
        self._position += len(held)
        return held

    def head(self, count: int) -> bytes:
        """The first `count` bytes, at most the object's size. They are kept: some stores cannot go back to the start.

        Raises: as read().
        """
        if len(self._head) < min(count, self.size):
            self._head = self._fetch(0, min(count, self.size))
        return self._head[:count]

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._held, self._head = [], b""
            self._stream.close()

    def __enter__(self) -> SourceStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def decoding(self, what: str, rows_read: int) -> Iterator[None]:
        """A block in which a decoder reads from this stream. Its errors are translated.

        Args:
            what: the format, for the message. rows_read: rows read so far.

        Raises:
            The stream's own failure, if there was one. ObjectError: the bytes are not valid as `what`.
        """
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            if self.failure is not None:
                raise self.failure from None
            reason = one_line(error)
            raise ObjectError(
                self.uri, f"truncated or corrupt {what} after {rows_read} rows ({reason}); upload it again", rows_read
            ) from None

    def _share(self, start: int, count: int) -> bytes:
        """A small read, from a block that an earlier one fetched if possible."""
        for begin, block in self._held:
            if begin <= start and start + count <= begin + len(block):
                return block[start - begin : start - begin + count]
        begin = min(
            start, max(0, self.size - self._least)
        )  # near the end the block extends backwards: a footer is read from its end
        block = self._fetch(begin, min(self._least, self.size - begin))
        self._held = [(begin, block), *self._held[: HELD_BLOCKS - 1]]
        return block[start - begin : start - begin + count]

    def _fetch(self, start: int, count: int) -> bytes:
        try:
            with translated(self.uri):
                self._stream.seek(start)
                parts: list[bytes] = []
                missing = count
                while missing and (part := self._stream.read(missing)):
                    parts.append(part)
                    missing -= len(part)
            if missing:
                end = start + count - missing
                raise TransientError(f"{self.uri}: the store ended the object at byte {end} of {self.size}")
        except FileNotFoundError:
            self.failure = ObjectMissing(
                self.uri, "deleted while it was read; restore it, or start a new run once this one has ended"
            )
            raise self.failure from None
        except ReembedError as error:
            self.failure = error
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

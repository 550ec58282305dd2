"""What a footer is to the rest of the program: bytes that are fetched without reading the data, and the facts in them.

fetch   in the driver, many objects at once: which byte ranges hold the footer; follows no offset that it has not checked
parse   in an isolated process, many footers in one call: bytes -> FooterFacts, or the problem with them
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

TAIL_BYTES = 64 << 10  # fetched first: most footers are shorter, and then one request is all
MAX_FOOTER_BYTES = 512 << 20  # beyond this it is no footer but damage

ReadRange = Callable[[int, int], bytes]
"""The object's bytes from `start` to `stop`. Raises: FileNotFoundError, UsageError, TransientError."""
FooterBytes = tuple[bytes, ...]
"""What `fetch` read, in an order that the format's `parse` knows."""


class FooterFacts(NamedTuple):
    """What a footer says of an object and of the wanted columns."""

    groups: tuple[tuple[int, int], ...] | None
    """(rows, uncompressed bytes of text) of each row group; None where the object must be read to know them."""
    types: dict[str, pa.DataType]
    names: tuple[str, ...]


class FooterReader(NamedTuple):
    """How a format's footers are read."""

    fetch: Callable[[ReadRange, int], FooterBytes | str]
    """(read, size of the object) -> the footer's bytes, or the problem with them. Raises what `read` raises."""
    parse: Callable[..., list[FooterFacts | str]]
    """([(bytes, size of the object)], text columns, other wanted columns) -> facts of each, or the problem with it. Of
    formats that tables have, also `columns`: the table's, for which its files may have other names.

    To be called in an isolated process: some corrupt footers end the process that parses them.
    """


class TailFile(io.RawIOBase):
    """An object whose end alone is here, for parsers that look for the footer from the end: all before it reads as zeros.

    Reads raise OSError beyond MAX_FOOTER_BYTES: no footer asks for that.
    """

    def __init__(self, tail: bytes, size: int) -> None:
        self._tail, self._size, self._position = tail, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        count = left if count < 0 else min(count, left)
        if count > MAX_FOOTER_BYTES:
            raise OSError(f"a read of {count} bytes")
        start = self._position - (self._size - len(self._tail))
        self._position += count
        missing = min(count, max(0, -start))
        return bytes(missing) + self._tail[max(0, start) : max(0, start + count)]

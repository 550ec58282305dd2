"""Gives memory that was freed back to the operating system.

glibc keeps freed memory in one arena per thread. After a shard of 1 GiB the arenas held 250 MB of free memory that arrays
allocated at the shard's end could not use, and a series of small shards adds some 20 MB a minute. Other C libraries keep
less, and have no call to release it. Arrow's allocator keeps freed memory as well: 20 MB in a replica.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time

import pyarrow as pa

EVERY_SECONDS = 30.0


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim() -> None:
    """Release memory freed in Arrow and glibc. Takes some ten milliseconds: for use between phases of work."""
    pa.default_memory_pool().release_unused()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if malloc_trim is not None:
        malloc_trim(0)


class Trimmer:
    """Calls `trim` at most once in EVERY_SECONDS, however often it is asked to."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY_SECONDS

    def trim_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + EVERY_SECONDS
            trim()

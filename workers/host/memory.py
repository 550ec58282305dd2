"""Memory that was freed goes back to the system.

glibc keeps it for later, in an arena for each thread; after a shard of 1 GiB these held 250 MB of holes, beside which the
arrays of the shard's end need room of their own, and small shards, one after the other, leave some 20 MB a minute. Other C
libraries have no such call, and keep less. Arrow's own allocator keeps what threads gave back: 20 MB of it in a replica.
"""

from __future__ import annotations

import ctypes
import sys
import time

import pyarrow as pa

EVERY_SECONDS = 30.0


def trim() -> None:
    """Some ten milliseconds; worth it between phases of work, not within one."""
    pa.default_memory_pool().release_unused()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back is not None:
        give_back(0)


class Trimmer:
    """Trims now and then, however often it is asked."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY_SECONDS

    def trim_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + EVERY_SECONDS
            trim()

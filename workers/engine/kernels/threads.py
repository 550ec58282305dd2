"""The threads of this process among which the compiled kernels divide a call. None holds the interpreter lock meanwhile."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor


@functools.cache
def kernel_threads() -> ThreadPoolExecutor:
    """One for each core, started when needed. A part of a call must not wait for another call."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "kernel")

"""The processor of this machine: part of the key of whatever was measured or proved on it."""

from __future__ import annotations

import contextlib
import functools
import platform
from pathlib import Path


@functools.cache
def processor() -> str:
    """The processor's model and instructions."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return " ".join(dict.fromkeys(line for line in lines if line.split("\t")[0].rstrip(" :") in wanted))
    return platform.processor() or platform.machine()

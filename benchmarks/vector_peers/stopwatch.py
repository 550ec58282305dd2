"""CPU seconds, wall seconds and memory of one piece of work in this process. Imports nothing of this project."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, and `cpu_seconds`, `seconds`, `peak_mib` of the process, `before_mib` when it began."""
    before = memory_mib("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    found = work()
    spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - began}
    return found, spent | {"before_mib": before, "peak_mib": memory_mib("VmHWM")}


def memory_mib(field: str) -> float:
    """VmRSS: now; VmHWM: the most so far. Of the mapped program alone: the parent's memory is not in it, as in getrusage."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise KeyError(field)

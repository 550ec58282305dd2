"""One run against the clock: a fresh process group from spawn to exit, and the CPU seconds of everything it started.

Processes that outlive their parent (Ray's) become children of this one, so that none escapes the count or the clean-up: what
is left when a contestant has exited gets some seconds to go, then is killed, and only then may the next start. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_SAMPLE_MS = 1000  # of CPU times; exit is noticed at once
_LEAVE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds from spawn to exit; user and system seconds of all its processes; 0 is success, negative a signal."""

    seconds: float
    cpu_seconds: float
    exit_code: int


def run_timed(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, stdout: Path, stderr: Path, limit_seconds: float
) -> Timing:
    """Run a command in `folder` to its end. One that takes longer than `limit_seconds` is killed.

    CPU seconds: the kernel's own for processes that were waited for, or the last of the samples taken every second where
    a process reaps its children without waiting (Ray), whichever is more.
    """
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _reaped()
    seen: dict[tuple[int, float], float] = {}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        began = time.perf_counter()
        child = subprocess.Popen(argv, cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            _until_exit(child.pid, began + limit_seconds, seen)
            seconds = time.perf_counter() - began
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            _clear(seen)
    return Timing(seconds, max(sum(seen.values()), _reaped() - before), child.returncode)


def _until_exit(pid: int, deadline: float, seen: dict[tuple[int, float], float]) -> None:
    handle = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        while not poller.poll(_SAMPLE_MS) and time.perf_counter() < deadline:
            _sample(seen)
    finally:
        os.close(handle)


def _sample(seen: dict[tuple[int, float], float]) -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    for process in found:
        try:
            times = process.cpu_times()
            seen[process.pid, process.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:  # gone since it was listed
            continue
    return found


def _clear(seen: dict[tuple[int, float], float]) -> None:
    """Wait for orphans, then kill them; killing one may orphan others."""
    psutil.wait_procs(_sample(seen), timeout=_LEAVE_SECONDS)
    while left := _sample(seen):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=_LEAVE_SECONDS)


def _reaped() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

"""Freed memory is given back to the system, but not more often than every EVERY_SECONDS."""

from __future__ import annotations

import ctypes
import platform
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from workers.host import memory as memory_module

MIB = 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_holes_below_what_is_in_use_go_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    held = [libc.malloc(64 << 10) for _ in range(2048)]  # 128 MiB in pieces that come from the memory_module, not from mmap
    for piece in held:
        ctypes.memset(piece, 1, 64 << 10)
    top, before = held.pop(), _resident()
    for piece in held:
        libc.free(piece)
    memory_module.trim()
    assert before - _resident() > 64 * MIB
    libc.free(top)


def test_what_arrow_keeps_of_another_threads_buffers_goes_back_too() -> None:
    held: list[pa.Buffer] = []

    def fill() -> None:
        for _ in range(2048):
            buffer = pa.allocate_buffer(64 << 10)
            ctypes.memset(buffer.address, 1, buffer.size)
            held.append(buffer)

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    before = _resident()
    held.clear()
    memory_module.trim()
    assert before - _resident() > 96 * MIB


def test_a_trimmer_trims_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trimmed = [100.0], list[float]()
    monkeypatch.setattr(memory_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory_module, "trim", lambda: trimmed.append(now[0]))
    trimmer = memory_module.Trimmer()
    for seconds in (1.0, memory_module.EVERY_SECONDS, 0.0, memory_module.EVERY_SECONDS - 1, 1.0):
        now[0] += seconds
        trimmer.trim_if_due()
    assert trimmed == [101.0 + memory_module.EVERY_SECONDS, 101.0 + 2 * memory_module.EVERY_SECONDS]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

"""The machine and commit of a result: processor, cores, memory, relevant instruction sets, and the commit.

python -m benchmarks.machine
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in bytes, which of FLAGS it has."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    present = set(facts.get("flags", "").split())
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": [facts.get(key) for key in ("cpu family", "model", "stepping")],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "flags": [flag for flag in FLAGS if flag in present],
        "kernel": platform.release(),
    }


def commit() -> dict[str, Any]:
    """The commit of this tree, and whether files other than results differ from it; None outside a git checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = ["git", "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs/benchmarks.md"]
        state = subprocess.run(changed, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head.stdout.strip(), "dirty": bool(state.stdout.strip())}


def pace() -> float:
    """MB of SHA-256 for each second of this thread's CPU time; takes some 10 ms.

    It measures the machine itself: the speed of a virtual core changes within an hour with the load of its neighbours.
    """
    piece, pieces = bytes(1 << 20), 16  # small enough for the second cache, often enough for the clock
    began = time.thread_time()
    for _ in range(pieces):
        hashlib.sha256(piece).digest()
    return pieces * len(piece) / 1e6 / (time.thread_time() - began)


if __name__ == "__main__":
    print(json.dumps(hardware() | commit(), indent=1))

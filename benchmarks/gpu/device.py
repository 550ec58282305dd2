"""The device that is measured: facts, timing, and what it draws meanwhile. The CPU stands in for a GPU with --smoke."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import hardware

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
HALF = torch.float16 if CUDA else torch.float32  # few of a CPU's operators know float16
_ASKED_ONCE = (
    "name", "driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "memory.total", "pcie.link.gen.current",
    "pcie.link.width.current", "ecc.mode.current", "mig.mode.current",
)  # fmt: skip
_ASKED = ("power.draw", "clocks.sm", "clocks.mem", "utilization.gpu", "temperature.gpu")
_PERIOD_MS = 500
EXPECTED = (  # what the product and Ray import; without Ray and what only it needs, end_to_end alone cannot run
    "triton", "transformers", "tokenizers", "sentence_transformers", "flash_attn", "pyarrow", "pydantic", "tenacity",
    "psutil", "yaml", "typer", "rich", "fsspec", "filelock", "packaging", "ray", "msgpack", "google.protobuf", "requests",
    "jsonschema", "attrs", "click",
)  # fmt: skip


class Timing(NamedTuple):
    """Medians, in seconds: until the results are there; until the call returned to the launching thread."""

    whole: float
    host: float


def timed(call: Callable[[], Any], rounds: int = 5, warm: int = 2) -> Timing:
    """A call that only launches work on the device returns long before its results are there."""
    for _ in range(warm):
        call()
    synchronize()
    whole, host = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        host.append(time.perf_counter() - began)
        synchronize()
        whole.append(time.perf_counter() - began)
    return Timing(statistics.median(whole), statistics.median(host))


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def facts() -> Iterator[tuple[str, Any]]:
    """Section: the device as torch and the driver describe it, and the host's processor."""
    host = hardware()
    yield "host", {"cpu": host["cpu"], "cores": host["cores"], "memory_bytes": host["memory_bytes"]}
    yield "absent_packages", [name for name in EXPECTED if not _is_there(name)]
    yield "torch", {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if not CUDA:
        yield "device", "cpu"
        return
    found = torch.cuda.get_device_properties(0)
    yield "device", {
        "name": found.name, "memory_bytes": found.total_memory, "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count, "devices": torch.cuda.device_count(),
        "second_cache_bytes": getattr(found, "L2_cache_size", None),
    }  # fmt: skip
    yield "driver", dict(zip(_ASKED_ONCE, _ask(_ASKED_ONCE), strict=False))


def _number(text: str) -> float | None:
    """None: the driver says that there is no such figure here ("[N/A]")."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is part of
        return False


def _ask(fields: tuple[str, ...]) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"nvidia-smi: {error}"]
    return [part.strip() for part in said.partition("\n")[0].split(",")]


class Meter:
    """Power, clocks, utilisation and temperature twice a second, into a file and for `during`. Nothing without a GPU."""

    def __init__(self, file: Path) -> None:
        self._seen: list[tuple[float, list[float | None]]] = []
        self._process: subprocess.Popen[str] | None = None
        if not CUDA:
            return
        query = [f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits", "-i", "0", "-lms", str(_PERIOD_MS)]
        try:
            self._process = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)
        except OSError:
            return  # without the driver's tool the figures are as right, and less is known of them
        threading.Thread(target=self._read, args=(file,), daemon=True).start()

    def _read(self, file: Path) -> None:
        with file.open("w") as out:
            out.write(",".join(("seconds", *_ASKED)) + "\n")
            for line in self._process.stdout if self._process and self._process.stdout else ():
                values = [_number(part) for part in line.split(",")]
                now = time.monotonic()
                self._seen.append((now, values))
                out.write(f"{now:.1f},{line.strip()}\n")
                out.flush()

    def during(self, since: float) -> dict[str, Any] | None:
        """Medians and maxima of the last `-since` seconds; None: nothing was seen."""
        rows = [values for moment, values in list(self._seen) if moment >= time.monotonic() + since]
        if not rows:
            return None
        columns = {name: [row[at] for row in rows if row[at] is not None] for at, name in enumerate(_ASKED)}
        return {name: {"median": statistics.median(seen), "max": max(seen)} for name, seen in columns.items() if seen}

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def cores() -> int:
    return len(os.sched_getaffinity(0))

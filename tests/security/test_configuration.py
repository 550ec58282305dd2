"""Configurations that are bombs, huge, or would run code: refused within a second and 100 MB, in a process of their own.

Measured is what parsing costs beyond a configuration of a page: seconds of processor time, and peak resident memory.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config import MAX_CONFIG_BYTES
from tests.sessions import ROOT

SECONDS, BYTES = 3.0, 100 << 20  # less than one second, where nothing else uses the memory

PARSE = """
import json, resource, sys, time
from jobs.config import load_config
from workers.errors import UsageError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def spend(call):
    began, before, said = time.process_time(), peak(), None
    try:
        call()
    except UsageError as error:
        said = str(error)
    return {"seconds": time.process_time() - began, "bytes": peak() - before, "said": said}
spend(lambda: load_config(sys.argv[1]))
told = spend(lambda: load_config(sys.argv[2], sys.argv[3:]))
again = spend(lambda: load_config(sys.argv[2], sys.argv[3:]))  # two hyperthreads on one core count each other's time
print(json.dumps(told | {"seconds": min(told["seconds"], again["seconds"])}))
"""


def laughs(width: int, depth: int) -> str:
    """The billion laughs: each level holds the one before so many times."""
    names = [f"a{number}" for number in range(depth)]
    lines = [f"{names[0]}: &{names[0]} [{', '.join('x' * width)}]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * width)}]" for before, name in itertools.pairwise(names)]
    return "\n".join(lines) + "\n"


BOMBS: dict[str, Callable[[], str]] = {  # made when they are tried: one has 200 MiB
    "billion laughs": lambda: laughs(9, 10),
    "merge keys": lambda: "a: &a {x: 1}\nb: {<<: *a}\n",
    "quadratic": lambda: "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]\n",
    "nested lists": lambda: "- " * 100_000,
    "nested brackets": lambda: "[" * 200_000,
    "nested mappings": lambda: "{a: " * 100_000,
    "a million keys": lambda: "".join(f"k{number}: 1\n" for number in range(90_000)),
    "a long key": lambda: "? " + "x" * 900_000 + "\n: 1\n",
    "a long number": lambda: "run: {max_attempts: " + "9" * 500_000 + "}\n",
    "a long sexagesimal": lambda: "run: {max_attempts: " + ":".join(["59"] * 100_000) + "}\n",
    "python object": lambda: "corpus: !!python/object/apply:os.system [touch OWNED]\n",
    "python name": lambda: "corpus: !!python/name:os.system\n",
    "python module": lambda: "corpus: !!python/module:antigravity\n",
    "a tag of its own": lambda: "corpus: !!binary |\n " + "A" * 900_000 + "\n",
    "too large": lambda: "# " + "x" * MAX_CONFIG_BYTES,
    "larger still": lambda: "x: " + "y" * (200 << 20),
    "not UTF-8": lambda: "corpus: \udcff\udcfe\n",
    "NUL bytes": lambda: "\0" * 1000,
    "many documents": lambda: "---\na: 1\n" * 1000,
}


def parse(folder: Path, text: str, *overrides: str) -> dict[str, Any]:
    good, bad = folder / "good.yaml", folder / "bad.yaml"
    good.write_text("corpus: {uri: x}\noutput: {uri: y}\n")
    bad.write_text(text, errors="surrogateescape")
    done = subprocess.run(
        [sys.executable, "-c", PARSE, good, bad, *overrides], cwd=folder, capture_output=True, text=True, timeout=400,
        env={"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_refused_within_seconds_and_100_mb(name: str, tmp_path: Path) -> None:
    told = parse(tmp_path, BOMBS[name]())
    assert told["said"] is not None, "it was accepted"
    assert "\n" not in told["said"]
    assert len(told["said"]) < 2000, "it repeats what it was given"
    assert told["seconds"] < SECONDS
    assert told["bytes"] < BYTES
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [laughs(9, 9), "[" * 100_000, "!!python/object/apply:os.system [touch OWNED]", "9" * 100_000]
)
def test_so_are_overrides(value: str, tmp_path: Path) -> None:
    told = parse(tmp_path, "corpus: {uri: x}\noutput: {uri: y}\n", f"run.max_attempts={value}")
    assert told["said"] is not None
    assert len(told["said"]) < 2000
    assert told["seconds"] < SECONDS
    assert told["bytes"] < BYTES
    assert not (tmp_path / "OWNED").exists()

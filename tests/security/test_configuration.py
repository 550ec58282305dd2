"""Configurations that are bombs, huge, or would run code: refused within seconds and 100 MB, in processes of their own.

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

# Each folder of the command line is a case: bad.yaml, and perhaps override.txt. A fork parses it: what is imported is there.
PARSE = """
import json, os, resource, sys, time
from pathlib import Path
from jobs.config import load_config
from workers.errors import UsageError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def spend(*arguments):
    began, before, said = time.process_time(), peak(), None
    try:
        load_config(*arguments)
    except UsageError as error:
        said = str(error)
    return {"seconds": time.process_time() - began, "bytes": peak() - before, "said": said}
def case(folder):
    os.chdir(folder)
    overrides = [Path("override.txt").read_text()] if Path("override.txt").exists() else []
    told = spend("bad.yaml", overrides)
    again = spend("bad.yaml", overrides)  # two hyperthreads on one core count each other's time
    Path("told.json").write_text(json.dumps(told | {"seconds": min(told["seconds"], again["seconds"])}))
spend(sys.argv[1])
for folder in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        try:
            case(folder)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
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


GOOD = "corpus: {uri: x}\noutput: {uri: y}\n"
OVERRIDES = {
    "billion laughs": laughs(9, 9),
    "nested brackets": "[" * 100_000,
    "python object": "!!python/object/apply:os.system [touch OWNED]",
    "a long number": "9" * 100_000,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of every case, by the name of its folder."""
    top = tmp_path_factory.mktemp("cases")
    (top / "good.yaml").write_text(GOOD)
    for name, make in BOMBS.items():
        _folder(top, "file", name).joinpath("bad.yaml").write_text(make(), errors="surrogateescape")
    for name, value in OVERRIDES.items():
        folder = _folder(top, "override", name)
        (folder / "bad.yaml").write_text(GOOD)
        (folder / "override.txt").write_text(f"run.max_attempts={value}")
    folders = sorted(path.parent for path in top.glob("*/bad.yaml"))
    command = [sys.executable, "-c", PARSE, str(top / "good.yaml"), *map(str, folders)]
    subprocess.run(command, cwd=top, env={"PYTHONPATH": str(ROOT)}, timeout=400, check=True)
    return {folder.name: _of(folder) for folder in folders}


def _folder(top: Path, kind: str, name: str) -> Path:
    folder = top / f"{kind} {name}"
    folder.mkdir()
    return folder


def _of(folder: Path) -> dict[str, Any]:
    (folder / "bad.yaml").unlink()  # one has 200 MiB
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found | {"owned": (folder / "OWNED").exists()}


def _refused(found: dict[str, Any]) -> None:
    assert found["said"] is not None, "it was accepted"
    assert "\n" not in found["said"]
    assert len(found["said"]) < 2000, "it repeats what it was given"
    assert found["seconds"] < SECONDS
    assert found["bytes"] < BYTES
    assert not found["owned"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_refused_within_seconds_and_100_mb(name: str, told: dict[str, dict[str, Any]]) -> None:
    _refused(told[f"file {name}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_so_are_overrides(name: str, told: dict[str, dict[str, Any]]) -> None:
    _refused(told[f"override {name}"])

"""Tests marked alone run when no other test does, and every test runs once, also when a worker crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.schedule import ALONE, GroupsThenAlone
from tests.sessions import ROOT

NAMES = [f"tests/{file}.py::test_{case}" for file in "abcde" for case in range(3)]
PAIR = ["tests/f.py::test_it", "tests/g.py::test_it[x::y]"]
MARKED = [f"tests/h.py::test_{case}" for case in range(4)]
GROUPS = dict.fromkeys(PAIR, "pair") | dict.fromkeys(MARKED, ALONE) | {name: name.partition("::")[0] for name in NAMES}


class Worker:
    """As pytest-xdist's: runs what it was sent, in order, but the last test only when it was told that nothing follows."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.sent: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, numbers: list[int]) -> None:
        assert not self.shutting_down
        self.sent += numbers

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def runs(self) -> int | None:
        return self.sent[0] if len(self.sent) > (0 if self.shutting_down else 1) else None


def scheduler_of(count: int, names: list[str], folder: Path) -> tuple[GroupsThenAlone, list[Worker]]:
    config = SimpleNamespace(getvalue=lambda _: ["popen"] * count)
    (folder / "groups").write_text(json.dumps(GROUPS))
    scheduler = GroupsThenAlone(cast(pytest.Config, config), folder)
    workers = [Worker(f"gw{number}") for number in range(count)]
    for worker in workers:
        scheduler.add_node(worker)
    for worker in workers:
        scheduler.add_node_collection(worker, names)
    scheduler.schedule()
    return scheduler, workers


def run(scheduler: GroupsThenAlone, workers: list[Worker], names: list[str], crash: set[str]) -> list[tuple[str, str, int]]:
    """Each test's name, its worker and how many ran with it; the workers take turns."""
    ran = []
    while any(worker.runs is not None for worker in workers):
        for worker in list(workers):
            if (number := worker.runs) is None:
                continue
            ran.append((names[number], worker.gateway.id, sum(other.runs is not None for other in workers)))
            if names[number] in crash:
                crash.remove(names[number])
                workers.remove(worker)
                assert scheduler.remove_node(worker) == names[number]
                workers.append(replacement := Worker(f"{worker.gateway.id}'"))
                scheduler.add_node(replacement)
                scheduler.add_node_collection(replacement, names)
                scheduler.schedule()
            else:
                worker.sent.remove(number)
                scheduler.mark_test_complete(worker, number)
    return ran


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("names", [NAMES + PAIR + MARKED, NAMES, MARKED, MARKED[:1], NAMES + MARKED[:1]])
@pytest.mark.parametrize("crash", [[], [NAMES[4]], [MARKED[0], NAMES[0]], [MARKED[2]]])
def test_every_test_once_and_those_marked_at_the_end(
    workers: int, names: list[str], crash: list[str], tmp_path: Path
) -> None:
    scheduler, nodes = scheduler_of(workers, names, tmp_path)
    ran = run(scheduler, nodes, names, set(crash))
    assert Counter(name for name, _, _ in ran) == Counter(names)
    assert scheduler.tests_finished
    assert not scheduler.has_pending
    assert all(node.shutting_down for node in nodes)
    marked = [name in MARKED for name, _, _ in ran]
    if not crash:
        assert marked == sorted(marked)
        assert all(together == 1 for name, _, together in ran if name in MARKED)
        for group in {GROUPS[name] for name in names}:
            assert len({worker for name, worker, _ in ran if GROUPS[name] == group}) == 1, "a group stays together"


FILE = """
import time, pytest
from pathlib import Path
@pytest.mark.parametrize("case", range(2))
{mark}def test_it(case):
    began = time.time()
    time.sleep(0.3)
    with Path({log!r}).open("a") as log:
        log.write(f"{name} {{began}} {{time.time()}}\\n")
"""


@pytest.mark.slow
def test_on_real_workers(tmp_path: Path) -> None:
    """Two files side by side, then the marked tests one after the other."""
    log = tmp_path / "log"
    for name, mark in (("a", ""), ("b", ""), ("c", "@pytest.mark.alone\n")):
        (tmp_path / f"test_{name}.py").write_text(FILE.format(name=name, mark=mark, log=str(log)))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone: x\n")
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    spans: list[tuple[str, float, float]] = [
        (name, float(began), float(ended)) for name, began, ended in map(str.split, log.read_text().splitlines())
    ]
    alone = sorted((began, ended) for name, began, ended in spans if name == "c")
    assert max(ended for name, _, ended in spans if name != "c") <= alone[0][0]
    assert all(one[1] <= other[0] for one, other in pairwise(alone))


def test_what_workers_collect_must_be_the_same(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(getvalue=lambda _: ["2*popen"])
    scheduler = GroupsThenAlone(config, tmp_path)
    one, other = Worker("gw0"), Worker("gw1")
    for worker in (one, other):
        scheduler.add_node(worker)
    scheduler.add_node_collection(one, ["a", "b"])
    assert not scheduler.collection_is_completed
    with pytest.raises(RuntimeError, match=r"gw1 and gw0 have collected different tests: \['b'\]"):
        scheduler.add_node_collection(other, ["a"])

"""A run of the real command that is sampled and killed, for benchmarks/long_haul.py.

    moments     the times of the kills, a function of the seed
    Haul        one run on a Ray of its own: its successive drivers, and the samples of drivers and replicas
    measured    memory and file descriptors of a process, from /proc

Processes are killed by pid. Processes that a driver started are recognised by a variable in their environment.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import pace
from benchmarks.slopes import Life

EMBED = [sys.executable, "-m", "jobs.cli", "embed"]
MARK = "REEMBED_LONG_HAUL"
SAMPLE_SECONDS = 5.0
YOUNGEST = 0.95  # share of replica kills that meet the youngest one, so that another grows old
FIGURES = ("rss_bytes", "pss_bytes", "anonymous_bytes", "descriptors")
_MEMORY = re.compile(r"^(Rss|Pss|Anonymous):\s+(\d+) kB", re.MULTILINE)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measured(pid: int) -> dict[str, float] | None:
    """Memory and file descriptors of a process; None when it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    memory = {f"{name.lower()}_bytes": float(kib) * 1024 for name, kib in _MEMORY.findall(rollup)}
    return memory | {"descriptors": float(descriptors)} if memory else None


@dataclass
class Haul:
    """The run, its successive drivers, and their samples."""

    config: Path
    chance: random.Random
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.monotonic)
    kills: list[dict[str, Any]] = field(default_factory=list)
    lives: dict[str, dict[tuple[str, int], Life]] = field(default_factory=lambda: defaultdict(dict))
    machine: Life = field(default_factory=Life)  # the machine's own speed meanwhile: benchmarks.machine.pace
    drivers: int = 0
    _first: dict[int, float] = field(default_factory=dict)  # pid -> when it was first seen

    def start(self) -> None:
        self.drivers += 1
        self._log = self.config.with_name(f"driver-{self.drivers}.log")
        self._answer = self.config.with_name(f"driver-{self.drivers}.json")
        with self._log.open("wb") as log, self._answer.open("wb") as answer:
            env = os.environ | {MARK: self.mark}
            command = [*EMBED, str(self.config), "--json"]
            self.driver = subprocess.Popen(command, stdout=answer, stderr=log, env=env, start_new_session=True)

    def replicas(self) -> dict[int, int]:
        """Number -> pid of those that live, the oldest first."""
        ready = re.findall(r"replica (\d+) ready: .*\bpid (\d+)", self.log())
        return {int(number): int(pid) for number, pid in ready if psutil.pid_exists(int(pid))}

    def sample(self) -> None:
        """Sample the processes. The driver only while replicas live: at its end it imports the drawing libraries."""
        self.machine.add(time.monotonic() - self.began, pace())
        replicas = [("replica", pid) for pid in self.replicas().values()]
        for kind, pid in [("driver", self.driver.pid), *replicas] if replicas else []:
            figures = measured(pid)
            for name, value in (figures or {}).items():
                life = self.lives[name].setdefault((kind, pid), Life())
                now = time.monotonic()
                self._first.setdefault(pid, now)
                life.add(now - self._first[pid], value)

    def kill_replica(self) -> None:
        alive = self.replicas()
        if alive:
            number = max(alive) if self.chance.random() < YOUNGEST else self.chance.choice(sorted(alive))
            os.kill(alive[number], signal.SIGKILL)
            self._note("replica")

    def kill_driver(self) -> None:
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        self._note("driver")
        self.start()

    def work(self, plan: Iterator[tuple[float, str]]) -> float:
        """From the first start to the end of the run, killing as planned; returns its seconds."""
        sampled = 0.0
        due, what = next(plan)
        self.start()
        while self.driver.poll() is None:
            now = time.monotonic() - self.began
            if now >= due:
                self.kill_driver() if what == "driver" else self.kill_replica()
                due, what = next(plan)
            if now - sampled >= SAMPLE_SECONDS:
                sampled = now
                self.sample()
            time.sleep(0.2)
        return time.monotonic() - self.began

    def series(self, block: float) -> list[dict[str, Any]]:
        """Of each process that lived for two blocks or more: the means of its figures, block by block."""
        found = []
        for kind, pid in self.lives[FIGURES[0]]:
            means = {name: self.lives[name][kind, pid].blocks(block, 0.0)[1].round().tolist() for name in FIGURES}
            if len(means[FIGURES[0]]) >= 2:
                found.append({"what": kind, "from_second": round(self._first[pid] - self.began, 1), **means})
        return found

    def log(self) -> str:
        """Of the last driver."""
        return self._log.read_text(errors="replace")

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self._answer.read_text()))

    def end(self) -> None:
        """End all processes of the run."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    process.kill()
            except (psutil.Error, OSError):
                continue  # somebody else's, or gone

    def _note(self, what: str) -> None:
        self.kills.append({"second": round(time.monotonic() - self.began, 1), "what": what})
        say(f"{self.kills[-1]['second']:8.1f} s: {what} killed")


def moments(chance: random.Random, minutes: float, every: float, drivers: int) -> Iterator[tuple[float, str]]:
    """(second, what) of each kill, in order and without end; the driver's turns are spread over the first `minutes`."""
    restarts = [minutes * 60 * (number + 1) / (drivers + 1) for number in range(drivers)]
    second = 0.0
    while True:
        second += chance.uniform(0.5, 1.5) * every
        if restarts and second >= restarts[0]:
            restarts.pop(0)
            yield second, "driver"
        else:
            yield second, "replica"

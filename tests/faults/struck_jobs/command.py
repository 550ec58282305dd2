"""The command of one job at one output, started as often as it takes.

    Output.until_done(prepare)   starts the command until it exits 0; a driver may end by SIGKILL alone

Each start is a process of its own, with the strikes of striking/sitecustomize.py on its path.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.faults.struck_jobs.snapshot import Job
from tests.sessions import ROOT, Session

STRIKING = Path(__file__).parent / "striking"
PATIENCE = 240.0  # seconds for one start
MOST_STARTS = 200


class Ended(RuntimeError):
    """A command ended otherwise than by our own SIGKILL."""


@dataclass
class Output:
    """Where a job's output is, and how it is made. `target`: see striking/sitecustomize.py."""

    job: Job
    snapshot: str
    uri: str
    folder: Path  # of our own files: configuration, log, strikes
    target: Path
    pairs: Path | None = None
    starts: int = field(default=0, init=False)

    def configure(self, address: str = "local", actors: int = 0) -> None:
        """`actors`: 0 for threads of the driver's own process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        section = {"snapshot": self.snapshot, **self.job.section} | ({"pairs": str(self.pairs)} if self.job.scored else {})
        cluster = {"address": address, "replicas": actors or "auto"}
        raw: dict[str, Any] = {"output": {"uri": self.uri}, "cluster": cluster}
        raw[self.job.command] = raw.get(self.job.command, {}) | section  # the job `cluster` shares its section with Ray
        self._config.write_text(yaml.safe_dump(raw))

    def struck(self, name: str) -> list[str]:
        """Lines of a file of the strikes."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def until_done(self, kill_after: float | None = None) -> dict[str, Any]:
        """Returns the summary. `kill_after`: seconds after its first driver has begun, when it is killed.

        Raises: Ended: with the end of its log.
        """
        for _ in range(MOST_STARTS):
            status = self._once(kill_after)
            kill_after = None
            if status == 0:
                summary: dict[str, Any] = json.loads(self._stdout.read_text())
                return summary
            if status != -signal.SIGKILL:
                raise Ended(f"exit {status}: {self._log.read_text()[-2000:]}")
        raise Ended(f"not done after {MOST_STARTS} starts: {self._log.read_text()[-2000:]}")

    def working_seconds(self) -> float:
        """From the moment when the last driver chose its run to now; 0 where it found nothing to do."""
        began = self.folder / "began"
        return time.time() - float(began.read_text()) if began.exists() else 0.0

    def _once(self, kill_after: float | None) -> int:
        """The exit status of one start; a driver that is over before it is to be killed has status 0."""
        (self.folder / "began").unlink(missing_ok=True)
        env = {"REEMBED_STRIKES": str(self.folder), "REEMBED_TARGET": str(self.target), "PYTHONPATH": f"{STRIKING}:{ROOT}"}
        command = [sys.executable, "-m", "jobs.cli", self.job.command, str(self._config), "--json"]
        session = Session(command, os.environ | env, self._stdout, self._log)
        self.starts += 1
        try:
            if kill_after is not None:
                _wait(lambda: (self.folder / "began").exists() or session.process.poll() is not None)
                time.sleep(kill_after)
                if session.process.poll() is None:
                    with (self.folder / "driver-random").open("a") as stream:
                        stream.write(f"after {kill_after:.3f} s\n")
                    os.kill(session.process.pid, signal.SIGKILL)
            return session.process.wait(PATIENCE)
        finally:
            session.kill()

    @property
    def _config(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def _stdout(self) -> Path:
        return self.folder / "summary.json"

    @property
    def _log(self) -> Path:
        return self.folder / "log"


def moments(name: str, seconds: float, count: int) -> list[float]:
    """Random moments within so many seconds, the same for the same name."""
    chance = random.Random(name)
    return [chance.uniform(0, seconds) for _ in range(count)]


def _wait(over: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not over():
        if time.monotonic() > end:
            raise Ended("the driver has not begun")
        time.sleep(0.002)

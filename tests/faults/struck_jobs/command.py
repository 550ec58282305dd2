"""The command of one job at one output, started as often as it takes.

    Output.until_done(prepare)   starts the command until it exits 0; a driver may end by SIGKILL alone

Each start is a process of its own, with the strikes of strikes.py: the real command where it uses Ray, else a fork of a
process that has imported the program (starter.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.drivers import PATIENCE
from tests.faults.struck_jobs.snapshot import Job
from tests.faults.struck_jobs.starter import Starter
from tests.sessions import ROOT, Session

STRIKING = Path(__file__).parent / "striking"
ALL_STRUCK = 1800  # seconds: one actor dies in each of `classify`'s 80 passes, and each is replaced in some 5 s
MOST_STARTS = 200


class Ended(RuntimeError):
    """A command ended otherwise than by our own SIGKILL."""


@dataclass(frozen=True)
class Stand:
    """What all outputs share: a standing Ray, the file of its next target (strikes.py), and where drivers are forked."""

    address: str
    target: Path
    starter: Starter
    pairs: Path  # a file of scored pairs


@dataclass
class Output:
    """Where a job's output is, and how it is made."""

    job: Job
    snapshot: str
    uri: str
    folder: Path  # of our own files: configuration, log, strikes
    stand: Stand
    starts: int = field(default=0, init=False)
    _on_ray: bool = field(default=False, init=False)

    def configure(self, actors: int, cache_bytes: int) -> None:
        """`actors`: 0 for threads of the driver's own process."""
        self._on_ray = actors > 0
        self.folder.mkdir(parents=True, exist_ok=True)
        section = {"snapshot": self.snapshot, **self.job.section} | (
            {"pairs": str(self.stand.pairs)} if self.job.scored else {}
        )
        cluster = {"address": self.stand.address, "replicas": actors} if actors else {"address": "local"}
        raw: dict[str, Any] = {"output": {"uri": self.uri}, "cluster": cluster, "run": {"cache_bytes": cache_bytes}}
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
        self.starts += 1
        argv = [self.job.command, str(self._config), "--json"]
        if not self._on_ray:
            pid = self.stand.starter.start(argv, self.folder, self._stdout, self._log)
            self._kill(pid, kill_after)
            return self.stand.starter.wait()
        env = {"REEMBED_STRIKES": str(self.folder), "REEMBED_TARGET": str(self.stand.target)}
        command = [sys.executable, "-m", "jobs.cli", *argv]
        session = Session(command, os.environ | env | {"PYTHONPATH": f"{STRIKING}:{ROOT}"}, self._stdout, self._log)
        try:
            self._kill(session.process.pid, kill_after)
            return session.process.wait(ALL_STRUCK)
        finally:
            session.kill()

    def _kill(self, pid: int, after: float | None) -> None:
        """SIGKILL so many seconds after the driver has begun, if it is not over then; None: it is let live."""
        if after is None:
            return
        end = time.monotonic() + PATIENCE
        while not (self.folder / "began").exists() and _runs(pid) and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(after)
        if _runs(pid):
            with (self.folder / "driver-random").open("a") as stream:
                stream.write(f"after {after:.3f} s\n")
            os.kill(pid, signal.SIGKILL)

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


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

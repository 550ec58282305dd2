"""Starts drivers without the seconds that importing the program takes: each is a fork of a process that has imported it.

    with Starter(folder) as starter:
        pid = starter.start(argv, strikes, stdout, log)
        status = starter.wait(pid)

A driver is a process of its own, and dies as one. The process that is forked has started no thread and opened no store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path

from tests.sessions import ROOT, end_session

PROGRAM = (
    "jobs.cli", "jobs.passes.job", "jobs.reduce.job", "jobs.cluster.job", "jobs.dedup.job", "jobs.index.job",
    "jobs.evaluate.job", "jobs.evaluate.classify", "jobs.evaluate.cluster", "jobs.evaluate.given.pairs",
    "faiss", "usearch.index", "s3fs", "scipy.optimize",
)  # fmt: skip


class Starter:
    """It ends with this process, and its drivers with it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "starter.log"

    def __enter__(self) -> Starter:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.struck_jobs.starter"],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        end_session(self._process.pid, self._process)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def start(self, argv: list[str], strikes: Path, stdout: Path, log: Path) -> int:
        """The process's id. One at a time."""
        self._tell({"argv": argv, "strikes": str(strikes), "stdout": str(stdout), "log": str(log)})
        return self._answer()

    def wait(self) -> int:
        """The exit status of the driver that was started last; negative for a signal."""
        return self._answer()

    def _tell(self, what: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the starter has ended: {self._log.read_text()[-2000:]}")
        return int(line)


def main() -> None:
    for name in PROGRAM:
        import_module(name)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if not pid:
            _drive(told)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _drive(told: dict[str, object]) -> None:
    """In the new process; does not return."""
    status = 1
    try:
        for path, flags, descriptor in (
            (os.devnull, os.O_RDONLY, 0),
            (str(told["stdout"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1),
            (str(told["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 2),
        ):
            os.dup2(os.open(path, flags, 0o644), descriptor)
        strikes = import_module("tests.faults.struck_jobs.strikes")
        strikes.strike_driver(Path(str(told["strikes"])))
        import_module("jobs.cli").main(told["argv"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may return to the loop that forks
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()

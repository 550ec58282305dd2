"""Processes that end with the tests, however the tests end.

A command is started in a session of its own. Whatever it starts stays in that session, also what gets another process group
or another parent, and is found by the session's id. A guard ends the session when the tests have ended, be it by SIGKILL:

    python -m tests.sessions PID                 when stdin, a pipe that pytest holds, is closed
    python -m tests.sessions PID --owner OWNER   when the process OWNER has ended
    python -m tests.sessions PID --now           at once
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


class Session:
    """A running command and its guard."""

    def __init__(
        self,
        command: list[str],
        env: Mapping[str, str],
        stdout: Path,
        stderr: Path | None = None,
        owner: int | None = None,
    ) -> None:
        """Start it in the repository's root; without `stderr` both streams go to `stdout`.

        It ends with this process, or with the process `owner`.
        """
        with stdout.open("wb") as out, (stderr or stdout).open("ab") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.sessions", str(self.process.pid), *(["--owner", str(owner)] if owner else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def holds(self, pid: int) -> bool:
        """Whether a process belongs to it."""
        return _in_session(pid, self.process.pid)

    def processes(self) -> list[psutil.Process]:
        """All that run in it now, its leader among them."""
        found = []
        for pid in _pids(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def kill(self) -> None:
        """SIGKILL to all of it, then to the guard."""
        end_session(self.process.pid, self.process)
        self.process.wait()
        self._guard.kill()
        with self._guard:
            pass


def name_of(process: psutil.Process) -> str:
    """Empty when it has ended since."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def end_session(session: int, leader: subprocess.Popen[bytes] | None = None) -> None:
    """SIGKILL until nothing is left: a process that is just being started is found the next time round."""
    while left := _pids(session):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if leader is not None:
            leader.poll()
        time.sleep(0.05)


def wait_for_end(owner: int | None) -> None:
    """Until the process `owner` has ended, or whoever holds the other end of stdin."""
    if owner is None:
        sys.stdin.buffer.read()
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)


def _pids(session: int) -> list[int]:
    return [pid for pid in psutil.pids() if _in_session(pid, session)]


def _in_session(pid: int, session: int) -> bool:
    """Those that have ended do not count, whether or not somebody has collected them."""
    try:
        return os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def main(arguments: list[str]) -> None:
    session, *how = arguments
    if how != ["--now"]:
        wait_for_end(int(how[1]) if how else None)
    end_session(int(session))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Processes that end with the tests, however the tests end.

A command is started in a session of its own. Whatever it starts stays in that session, also what gets another process group
or another parent, and is found by the session's id. A guard ends sessions when the tests have ended, be it by SIGKILL:

    python -m tests.sessions                     reads `+PID` and `-PID` from pytest; at the pipe's end it ends what it knows
    python -m tests.sessions PID --owner OWNER   ends a session when the process OWNER has ended
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
        self._owned = owner is not None
        if self._owned:
            _start_guard(str(self.process.pid), "--owner", str(owner))
        else:
            _tell_guard(f"+{self.process.pid}")

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
        """SIGKILL to all of it."""
        end_session(self.process.pid, self.process)
        self.process.wait()
        if not self._owned:
            _tell_guard(f"-{self.process.pid}")


_guards: list[subprocess.Popen[bytes]] = []  # never collected: Python would warn that they run
_told: list[subprocess.Popen[bytes]] = []  # the one of this process


def _start_guard(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.sessions", *arguments]
    _guards.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True))
    return _guards[-1]


def _tell_guard(line: str) -> None:
    if not _told:
        _told.append(_start_guard())
    stream = _told[0].stdin
    assert stream is not None
    stream.write(f"{line}\n".encode())
    stream.flush()


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


def wait_for_end(owner: int) -> None:
    """Until that process has ended."""
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


def _guard() -> None:
    known: set[int] = set()
    for line in sys.stdin:
        (known.add if line[0] == "+" else known.discard)(int(line[1:]))
    for session in known:
        end_session(session)


def main(arguments: list[str]) -> None:
    if not arguments:
        _guard()
        return
    session, *how = arguments
    if how != ["--now"]:
        wait_for_end(int(how[1]))
    end_session(int(session))


if __name__ == "__main__":
    main(sys.argv[1:])

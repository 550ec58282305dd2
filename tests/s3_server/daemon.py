"""One background process, known by a pid file that holds "PID STARTTICKS".

A pid that the system has since given to something else has other start ticks, so it is never signalled. Any process that
sees the pid file can signal the daemon; only the one that spawned it reaps it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 15.0  # after SIGTERM; then SIGKILL


class Daemon:
    """`name` with its pid file and its log under `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.out"
        self._pid_file = folder / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        """Start it in a session of its own, so that Ctrl-C in a terminal reaches the tests alone."""
        self._reap()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        _, ticks = _state(self._process.pid)
        self._pid_file.write_text(f"{self._process.pid} {ticks}")

    def alive(self) -> bool:
        return self._pid() is not None

    def send(self, number: signal.Signals) -> None:
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; a frozen one is thawed first."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if not self._gone(STOP_SECONDS):
            self.crash()
        self._pid_file.unlink(missing_ok=True)

    def crash(self) -> None:
        """SIGKILL, at once."""
        self.send(signal.SIGKILL)
        self._gone(STOP_SECONDS)

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _pid(self) -> int | None:
        try:
            pid, ticks = map(int, self._pid_file.read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        state, now = _state(pid)
        return pid if now == ticks and state not in ("Z", "") else None

    def _gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        self._reap()
        return True

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None


def _state(pid: int) -> tuple[str, int]:
    """State letter and start time in clock ticks (fields 3 and 22 of /proc/PID/stat); ("", -1) when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", -1
    return fields[0], int(fields[19])

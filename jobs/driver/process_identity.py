"""The identity of a driver process, and whether another driver on this machine is still running.

A pid does not identify a process: pids are reused, and each container has its own. An identity is therefore host, boot, pid
namespace, pid and the start time of the process. On Linux the start is counted in ticks since boot, so that setting the
clock never makes a running process look dead. Knows nothing of locks or storage.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

_STATE, _START = 0, 19  # fields of /proc/<pid>/stat counted after the command name, which may hold spaces and brackets


class Life(StrEnum):
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # on another machine or in another container, or not visible to this user


@dataclass(frozen=True, slots=True)
class Identity:
    """One process. `boot` and `namespace` are empty where the system has none (not Linux)."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    user: str

    @classmethod
    def mine(cls) -> Identity:
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            boot=_read(Path("/proc/sys/kernel/random/boot_id")),
            namespace=_link(Path("/proc/self/ns/pid")),
            pid=pid,
            started=_started(pid) or "",
            user=_user(),
        )

    def beside(self, other: Identity) -> bool:
        """Whether both are in the same pid namespace of the same boot."""
        return (self.host, self.boot, self.namespace) == (other.host, other.boot, other.namespace)

    def life_of(self, other: Identity) -> Life:
        """Whether `other` is still running, as far as this process can see. Does not wait."""
        if not self.beside(other):
            return Life.UNKNOWN
        try:
            os.kill(other.pid, 0)
        except ProcessLookupError:
            return Life.DEAD
        except PermissionError:
            pass  # it runs, as another user
        started = _started(other.pid)
        if started is None:
            return Life.UNKNOWN
        return Life.ALIVE if started and _same_start(started, other.started) else Life.DEAD


def _started(pid: int) -> str | None:
    """The start time of the process; '' for a zombie; None if it is not visible."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[_STATE] in "ZX" else fields[_START]
    except (OSError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _same_start(one: str, other: str) -> bool:
    """Compare ticks exactly, and seconds since 1970, which change with the clock, with a tolerance."""
    return one == other or ("." in one and "." in other and abs(float(one) - float(other)) < 5)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""

"""Calls made in an isolated process: what bytes that nobody vouches for do to it, they do not do to this one.

    IsolatedProcess().call(function, …)   starts the process when it is first needed; calls reach it one at a time, from any thread

pyarrow's C++ ends the process on some corrupt Parquet footers, where no `except` can help. A call that ended its process is
tried once more in a fresh one, so that nobody is blamed for an accident; then ProcessEnded says how it ended. The same goes
for a call that does not come back in time. Whatever is sent must be known by its module, as with multiprocessing; its
spawned processes would import the caller's main module again, which costs a driver a second and a notebook its nerves.

The process ends with its owner, also one that was killed: its socket is closed then.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar, cast

PATIENCE_SECONDS = 120.0  # for one call; the longest honest one reads a shard from a store that is slow
_START = "import sys; sys.path[:] = {path!r}; from workers.host.isolated_process import serve; serve({socket})"
_T = TypeVar("_T")


class ProcessEnded(Exception):
    """The call ended its process, twice, or did not come back; says how."""


class IsolatedProcess:
    """One isolated process."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        """`patience`: seconds for one call, the start of the process included."""
        self._patience = patience
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """What `function` returns there, or raises: an exception that is made of its `args`.

        Raises:
            ProcessEnded: the bytes are to blame. OSError, RuntimeError: no process can be started.
        """
        with self._lock:
            for last in (False, True):
                line = self._line or self._start()
                try:
                    returned, answer = self._ask(line, function, arguments)
                    break
                except (EOFError, OSError) as error:
                    how = self._how_it_ended(error)
                    self._end()
                    if last:
                        raise ProcessEnded(how) from None
        if returned:
            return cast("_T", answer)
        raise answer

    def close(self) -> None:
        """End the process. The next call would start another."""
        with self._lock:
            self._end()

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, line: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        line.send((function, arguments))
        if not line.poll(self._patience):
            raise TimeoutError
        return cast("tuple[bool, Any]", line.recv())

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            code = _START.format(path=sys.path, socket=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._line = Connection(ours.detach())
        try:
            self._line.recv()  # it stands: what ends it from here on is what it was asked to do
        except EOFError:
            self._end()
            raise RuntimeError(
                f"{sys.executable} could not be started as an isolated process; see what it says by itself"
            ) from None
        return self._line

    def _how_it_ended(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) or self._process is None:
            return f"did not end within {self._patience:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):  # it has closed its socket, so it is about to end
            status = self._process.wait(5)
            if status < 0:
                return f"ended the process by {signal.Signals(-status).name}"
            return f"ended the process with status {status}"
        return "did not answer"

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None


def serve(descriptor: int) -> None:
    """The isolated process: answer calls until the owner hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the owner, whose end is ours
    line = Connection(descriptor)
    line.send(None)
    while True:
        try:
            function, arguments = line.recv()
            answer = (True, function(*arguments))
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - the edge: what is raised here is raised there
            answer = (False, error)
        with contextlib.suppress(OSError):  # nobody is there to hear it; the next turn finds that out
            line.send(answer)

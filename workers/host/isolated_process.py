"""Function calls in a separate process, for input that may crash the process that reads it.

    IsolatedProcess().call(function, …)   starts the process on first use; calls from any thread, one at a time

Some corrupt Parquet footers make pyarrow's C++ code end the process; no `except` can catch that. A call that ended its
process, or did not return in time, is repeated once in a new process, in case it was an accident. Then ProcessEnded says how
the process ended.

Functions and arguments are pickled, so functions must be importable, as with multiprocessing. Processes that multiprocessing
spawns would also import the caller's main module again: slow for a driver (a second), and an error in notebooks.

The process ends together with its owner, even if that is killed: its socket is then closed.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, TypeVar, cast

from workers.host.without_pandas import without_pandas

PATIENCE_SECONDS = 120.0  # for one call; the longest legitimate call reads a shard from a slow store
_START = "import sys; sys.path[:] = {path!r}; from workers.host.isolated_process import serve; serve({socket})"
_T = TypeVar("_T")


class ProcessEnded(Exception):
    """The call ended its process, or did not return in time, twice. The message says how the process ended."""


class IsolatedProcess:
    """A process that is started when needed and restarted after a crash. Thread-safe."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        """`patience`: seconds for one call, including the start of the process."""
        self._patience = patience
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call `function` in the process and return its result. What it raises is raised here.

        Exceptions are pickled. One that does not survive it arrives as a RuntimeError with its class and message.

        Raises:
            ProcessEnded: the input is to blame. OSError, RuntimeError: no process can be started.
        """
        with self._lock:
            for last in (False, True):
                line = self._line or self._start()
                try:
                    returned, answer = self._ask(line, function, arguments)
                    break
                except (EOFError, OSError) as error:
                    how = self._describe_end(error)
                    self._end()
                    if last:
                        raise ProcessEnded(how) from None
        if returned:
            return cast("_T", answer)
        raise answer

    def close(self) -> None:
        """End the process. A later call starts a new one."""
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
            self._line.recv()  # the process has started; if it ends from now on, a call was the cause
        except EOFError:
            self._end()
            raise RuntimeError(
                f"{sys.executable} could not be started as an isolated process; run it by hand to see why"
            ) from None
        return self._line

    def _describe_end(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) or self._process is None:
            return f"did not end within {self._patience:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):  # its socket is closed, so it is about to end
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
    """Main loop of the isolated process: answer calls until the owner closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the owner; this process ends after it
    line = Connection(descriptor)
    line.send(None)
    while True:
        try:
            function, arguments = line.recv()
            if "pyarrow" in sys.modules:
                without_pandas()
            answer = (True, function(*arguments))
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - sent to the caller, which raises it
            answer = (False, _portable(error))
        with contextlib.suppress(OSError):  # the owner is gone; the next recv() raises EOFError
            line.send(answer)


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same: an error that cannot be made again from its pickle would end the caller."""
    try:
        again = copy.copy(error)  # made again as unpickling does
        ForkingPickler.dumps(error)
    except Exception:  # noqa: BLE001 - whatever the class's own constructor and attributes raise
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")

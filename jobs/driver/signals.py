"""Signal handling: SIGTERM and SIGINT set a flag that the driver's loop checks.

`ray job stop` sends SIGTERM, and SIGKILL three seconds later, or as many as RAY_JOB_STOP_WAIT_TIME_S says.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from workers.errors import RunAborted, UsageError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # Ray's own variable; a job's driver has it from the process that stops the job
RAYS_WAIT_SECONDS = 3
LAST_SECONDS = 0.5  # of that wait, to end the process before Ray kills it


class Stopped(RunAborted):
    """The run was asked to stop by a signal; exit status 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to resume")
        self.exit_status = 128 + number


class StopFlag:
    """A flag set by the first signal. A second signal, or the end of the grace period, ends the process at once."""

    def __init__(self) -> None:
        """Raises: UsageError: the environment does not say how long there is."""
        self.number: int | None = None
        self._grace_seconds = grace_seconds()

    def install(self) -> None:
        """Install the handlers. Call it again after ray.init, whose C++ code prints stack traces on SIGTERM."""
        if (
            threading.current_thread() is threading.main_thread()
        ):  # in another thread we are a library, and the caller owns the signals
            for number in SIGNALS:
                signal.signal(number, self.handle)

    def check(self) -> None:
        """Raises: Stopped."""
        if self.number is not None:
            raise Stopped(self.number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        watchdog = threading.Timer(self._grace_seconds, _give_up, (number,))
        watchdog.daemon = True
        watchdog.start()


def grace_seconds() -> float:
    """Seconds that a driver has after a signal. Raises: UsageError."""
    told = os.environ.get(WAIT) or str(RAYS_WAIT_SECONDS)
    if not told.isdecimal():
        raise UsageError(f"{WAIT}={told!r} in the environment: write whole seconds, as Ray wants them, or unset it")
    return max(LAST_SECONDS, int(told) - LAST_SECONDS)


def _give_up(number: int) -> None:
    """End the process: storage or Ray did not answer in time. Committed shards stay committed; the lock becomes stale."""
    print("reembed: stopped without tidying up: storage or Ray did not answer in time", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Install the handlers; restore the old ones at the end, unless stopped: then nothing may interrupt the shutdown."""
    flag = StopFlag()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    flag.install()
    try:
        yield flag
    finally:
        if flag.number is None and threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

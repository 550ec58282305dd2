"""SIGTERM and SIGINT become a flag that the driver's loop looks at; `ray job stop` leaves three seconds before SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from workers.errors import RunAborted

GRACE_SECONDS = 2.5  # Ray kills a stopped job after 3 s


class Stopped(RunAborted):
    """The run was asked to stop by a signal; exit status 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to resume")
        self.exit_status = 128 + number


class StopFlag:
    """Set by the first signal; a second one, or the end of the grace time, ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raises: Stopped."""
        if self.number is not None:
            raise Stopped(self.number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        watchdog = threading.Timer(GRACE_SECONDS, _give_up, (number,))
        watchdog.daemon = True
        watchdog.start()


def _give_up(number: int) -> None:
    """Storage or Ray did not let go in time. What is committed stays committed, the lock is found stale."""
    print("reembed: stopped without tidying up: storage or Ray did not answer in time", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Install the handlers (after ray.init, which replaces SIGTERM's) and put the old ones back at the end."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():  # called as a library: signals are the caller's
        yield flag
        return
    before = {number: signal.signal(number, flag.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        if flag.number is None:
            for number, handler in before.items():
                signal.signal(number, handler)

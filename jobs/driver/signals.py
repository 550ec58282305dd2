"""SIGTERM and SIGINT become a flag that the driver's loop looks at; `ray job stop` leaves three seconds before SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from workers.errors import RunAborted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
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

    def install(self) -> None:
        """Receive SIGTERM and SIGINT from here on. Once more after ray.init: its C++ side prints stack traces on SIGTERM."""
        if threading.current_thread() is threading.main_thread():  # elsewhere we are a library: signals are the caller's
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
        watchdog = threading.Timer(GRACE_SECONDS, _give_up, (number,))
        watchdog.daemon = True
        watchdog.start()


def _give_up(number: int) -> None:
    """Storage or Ray did not let go in time. What is committed stays committed, the lock is found stale."""
    print("reembed: stopped without tidying up: storage or Ray did not answer in time", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Inside the block nobody takes SIGTERM or SIGINT from us: ray.init would, with no way to tell it not to.

    Its handler raises SystemExit wherever the main thread happens to be. Inside a destructor or a lock of `logging` that is
    swallowed: the signal is lost, the lock stays taken, and the driver hangs for ever.
    """
    install = signal.signal

    def refuse(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in SIGNALS else install(number, handler)

    signal.signal = refuse  # type: ignore[assignment] # as Ray calls it
    try:
        yield
    finally:
        signal.signal = install


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block once it has taken so long. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer for {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Install the handlers, and put the old ones back at the end; not once stopped: nothing may interrupt the tidying up."""
    flag = StopFlag()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    flag.install()
    try:
        yield flag
    finally:
        if flag.number is None and threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

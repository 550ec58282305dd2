"""The loop of a driver: the scheduler decides, a pool executes, what happens is handled.

    until every shard is done or quarantined:
        commands = scheduler.decide(now)  -> pool.execute
        events   = pool.wait              -> handle

It handles no text and no tensor, and decides nothing. It ends early by an exception: of `check` or `handle`, or RunAborted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from jobs.scheduling.messages import Command, Event
from jobs.scheduling.scheduler import Scheduler
from workers.errors import RunAborted

WAKE_SECONDS = 0.25  # how soon a signal or a lost lock is noticed


class Pool(Protocol):
    """The part of a pool of actors that the loop uses."""

    def execute(self, command: Command) -> None: ...
    def wait(self, timeout: float) -> list[Event]: ...


def drive(
    scheduler: Scheduler,
    pool: Pool,
    handle: Callable[[Event], None],
    check: Callable[[], None],
    tick: Callable[[float], None],
    executed: Callable[[Command], None] = lambda _: None,
) -> None:
    """Run the loop until every shard is done or quarantined.

    Args:
        handle: reports an event to the scheduler, and does what else it calls for.
        check: raises if the driver must stop; called in every turn.
        tick: called after the events of a turn, with the time.
        executed: called after each command.

    Raises:
        RunAborted: the scheduler aborted (its reason says what to check). What `check` and `handle` raise.
    """
    while not scheduler.finished:
        check()
        for command in scheduler.decide(time.monotonic()):
            pool.execute(command)
            executed(command)
        if scheduler.abort_reason:
            raise RunAborted(f"{scheduler.abort_reason}; what is committed stays, run the same command again to resume")
        for event in pool.wait(WAKE_SECONDS):
            handle(event)
        tick(time.monotonic())

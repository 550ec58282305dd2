"""Strikes: drivers and actors of jobs over a snapshot kill themselves with SIGKILL at moments that files name.

    strike_driver(folder)    this process drives a job; the folder is of one output, and holds
        driver               each line is a moment at which drivers were killed; while the file is there, the next driver is
                             killed at the first moment that is not in it, and after every pass that it adds to the journal
        actors               while it is there, one actor is killed in every pass; each line is one of them
        rounds               each line is a pass that a driver has given to actors
        began                the time when the driver chose its run
    strike_actor(module)     this process is an actor. The file $REEMBED_TARGET, the same for all drivers and actors of a
                             cluster, names the folder, the pass, and the shard whose actor dies

A killed process is gone before any handler of Python's could run, as by the kernel's out-of-memory killer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.after_import import after_import, replace

RECEIPTS = 10  # the driver is killed when it has taken so many
WAYS = ("before", "during", "after")  # the actor's work on the shard
MOST_SECONDS = 0.004  # into the work: a shard of the harness takes about so long


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal is on its way


def _note(path: Path, line: str) -> None:
    with path.open("a") as stream:
        stream.write(line + "\n")


class DriverStrikes:
    """Strikes at this process, which drives a job."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._struck = folder, folder / "driver"
        self._written = self._receipts = self._round = 0

    def strike(self, moment: str, *, again: bool = False) -> None:
        """`again`: also where one was killed at this moment before."""
        if self._struck.exists() and (again or moment not in self._struck.read_text().splitlines()):
            _note(self._struck, moment)
            _die()

    def journal(self, module: ModuleType) -> None:
        write = module.StoredJournal.write

        def struck(journal: Any, place: int, name: str, *more: Any) -> None:
            write(journal, place, name, *more)
            self.strike(f"pass {place} {name.strip('_').split()[0]}", again=True)

        replace(module.StoredJournal, "write", struck)

    def ledger(self, module: ModuleType) -> None:
        record = module.Ledger.record_async

        def struck(ledger: Any, receipt: Any) -> Any:
            future = record(ledger, receipt)
            self._receipts += 1
            if self._receipts == RECEIPTS:
                self.strike(f"{RECEIPTS} receipts")
            return future

        replace(module.Ledger, "record_async", struck)

    def job(self, module: ModuleType) -> None:
        choose = module.choose

        def chosen(*arguments: Any) -> Any:
            (self._folder / "began").write_text(repr(time.time()))
            found = choose(*arguments)
            self.strike("chosen")
            return found

        replace(module, "choose", chosen)
        self._around(module, "carry_over", after="carried over")
        self._around(module, "save_arrays", before="all receipts", after="state")
        self._around(module, "publish", after="published")
        self._around(module, "write_summary", after="summary")
        self._around(module, "retain", after="retention")

    def actors(self, module: ModuleType) -> None:
        carry_out = module.Actors._round

        def struck(actors: Any, step: Any, shards: Any, answered: Any) -> None:
            if (self._folder / "actors").exists() and shards:
                self._round += 1
                name = f"{self._round} {type(step).__name__.strip('_')}"
                _note(self._folder / "rounds", name)
                target = random.Random(f"{self._folder.name} {name}").choice([shard.number for shard in shards])
                self._aim(f"{self._folder}\n{name}\n{target}\n{WAYS[self._round % len(WAYS)]}")
            carry_out(actors, step, shards, answered)

        replace(module.Actors, "_round", struck)

    def _aim(self, told: str) -> None:
        path = Path(os.environ["REEMBED_TARGET"])
        path.with_suffix(".new").write_text(told)
        path.with_suffix(".new").replace(path)

    def _around(self, module: ModuleType, name: str, *, after: str, before: str | None = None) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def struck(*arguments: Any, **named: Any) -> Any:
            if before:
                self.strike(before)
            answer = real(*arguments, **named)
            self.strike(after)
            return answer

        replace(module, name, struck)


def strike_actor(module: ModuleType) -> None:
    """Strikes at this process, which is an actor, if the shard that it is given is the target."""
    work = module.VectorWorker.work

    def struck(worker: Any, step: Any, assignment: Any) -> Any:
        target = Path(os.environ["REEMBED_TARGET"])
        told = target.read_text().split("\n") if target.exists() else []
        if not told or assignment.shard.number != int(told[2]) or not told[1].endswith(type(step).__name__.strip("_")):
            return work(worker, step, assignment)
        folder, name, _, way = told
        claim = Path(folder) / f"struck {name}"
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:  # its first attempt: this is the next
            return work(worker, step, assignment)
        _note(Path(folder) / "actors", f"{name}, {way} shard {assignment.shard.number}")
        if way == "during":
            delay = random.Random(name).uniform(0, MOST_SECONDS)
            threading.Timer(delay, _die).start()
        if way != "before":
            work(worker, step, assignment)
        _die()
        return None

    replace(module.VectorWorker, "work", struck)


def strike_driver(folder: Path) -> None:
    """Before the program is imported, or after."""
    strikes = DriverStrikes(folder)
    for name, change in (
        ("jobs.passes.journal", strikes.journal),
        ("jobs.state.ledger", strikes.ledger),
        ("jobs.passes.job", strikes.job),
        ("jobs.passes.actors", strikes.actors),
    ):
        after_import(name, change)

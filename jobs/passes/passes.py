"""Passes: what a job's program calls. The program is an ordinary function, and its passes are kept in a journal.

    total = passes.run(step)          every shard answers, the answers are combined
    total = passes.units(step, n)     so do n numbered units
    value = passes.once(name, make)   something that only the driver computes, and that is costly to compute again

A driver that starts again runs the same program from its beginning: what the journal holds is returned at once, so the
program is back where it was in seconds. It must be deterministic: equal answers lead to equal steps. A step that differs
from the journal's (other code, other settings) makes the journal useless from there on, and it is computed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from jobs.passes.source import SourceSnapshot
from workers.records.shard import ObjectSlice, Shard
from workers.vectors.step import Combiner, Partial, Step, UnitStep


class Executor(Protocol):
    """Has steps carried out: by threads of this process, or by actors on Ray."""

    def run(self, step: Step | UnitStep, shards: Sequence[Shard], combiner: Combiner) -> None:
        """Every shard answers; `combiner` is given the answers in order of numbers.

        Raises: UsageError: a step says that the request is at fault. RunAborted: stopped early; the job can be resumed.
        """


class Journal(Protocol):
    """What was computed so far."""

    def read(self, place: int, name: str, digest: str) -> Partial | None:
        """None: not there yet, or of another step."""

    def write(self, place: int, name: str, digest: str, value: Partial) -> None: ...


class Passes:
    """The passes of one job over one snapshot."""

    def __init__(self, source: SourceSnapshot, executor: Executor, journal: Journal) -> None:
        self.source = source
        self._executor, self._journal = executor, journal
        self._place = 0
        self.done: list[tuple[str, float]] = []  # (name, seconds) of each pass that this driver carried out

    def run(self, step: Step, shards: Sequence[Shard] | None = None) -> Partial:
        """A pass over the snapshot, or over some of its shards. Raises: as Executor.run()."""
        chosen = self.source.shards if shards is None else shards
        return self._kept(step.pass_name, (step, [shard.number for shard in chosen]), lambda: self._of(step, chosen))

    def units(self, step: UnitStep, count: int) -> Partial:
        """A pass over the units 0 to count - 1. Raises: as Executor.run()."""
        return self._kept(type(step).__name__, (step, count), lambda: self._of(step, units_of_work(count)))

    def once(self, name: str, make: Callable[[], Partial]) -> Partial:
        """What `make` returned, also in a driver that is started again. It has one thread, as steps have."""
        with threadpool_limits(limits=1):
            return self._kept(name, name, make)

    def _of(self, step: Step | UnitStep, shards: Sequence[Shard]) -> Partial:
        combiner = step.combiner()
        self._executor.run(step, shards, combiner)
        return combiner.result()

    def _kept(self, name: str, what: object, make: Callable[[], Partial]) -> Partial:
        place, self._place = self._place, self._place + 1
        digest = digest_of(what)
        found = self._journal.read(place, name, digest)
        if found is not None:
            return found
        began = time.monotonic()
        value = make()
        self._journal.write(place, name, digest, value)
        self.done.append((name, time.monotonic() - began))
        return value


def units_of_work(count: int) -> tuple[Shard, ...]:
    """Numbered units in the form that the scheduler knows."""
    nothing: tuple[ObjectSlice, ...] = ()
    return tuple(Shard(number, nothing, 0) for number in range(count))


def digest_of(value: object) -> str:
    """SHA-256 (hex) of a step, or of plain values: equal for equal contents, whatever they were made of."""
    sums = hashlib.sha256()
    _feed(sums, value)
    return sums.hexdigest()


def _feed(sums: Any, value: object) -> None:
    if isinstance(value, np.ndarray):
        sums.update(f"array {value.dtype} {value.shape} ".encode())
        sums.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        sums.update(f"{type(value).__name__}(".encode())
        for field in dataclasses.fields(value):
            _feed(sums, (field.name, getattr(value, field.name)))
    elif isinstance(value, dict):
        _feed(sums, sorted(value.items()))
    elif isinstance(value, list | tuple):
        sums.update(f"[{len(value)} ".encode())
        for item in value:
            _feed(sums, item)
    else:
        sums.update(f"{type(value).__name__} {value!s} ".encode())

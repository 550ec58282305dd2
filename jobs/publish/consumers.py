"""Consumers of change sets: which snapshot each has, so that the next set begins there and retention keeps it.

    runs/consumers/<name>/<n>.json    {"name", "acknowledged", "handed", "at"}; the highest n counts

    Consumers.hand          a change set to snapshot X is about to be given out: until it is acknowledged, no other is
    Consumers.acknowledge   the consumer has applied it
    held_runs               the snapshots that retention must keep: what consumers have, and what they are about to have

A state is one object, made by an atomic create of the next number: of two processes that act for one consumer one is
refused. A consumer that was killed after it applied a set and before it acknowledged it is given the very same set again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from workers.errors import RunAborted, UsageError
from workers.storage.store import Store
from workers.table.paths import CONSUMERS, RunPaths, consumer_state, file_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEPT = 2  # states of a consumer that stay: the one that counts, and the one before, for people
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Consumer:
    """`acknowledged`: the snapshot it has; None: nothing yet. `handed`: the one that its present change set leads to."""

    name: str
    acknowledged: str | None = None
    handed: str | None = None
    at: str = ""  # ISO 8601, UTC, for people

    @property
    def holds(self) -> tuple[str, ...]:
        return tuple(run_id for run_id in (self.acknowledged, self.handed) if run_id is not None)


class Consumers:
    """The consumers of one output."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, name: str) -> Consumer | None:
        """None: nobody of that name was ever given anything. Raises: UsageError: no name. RunAborted: a damaged state."""
        return self._latest(checked(name))[1]

    def all(self) -> list[Consumer]:
        """Sorted by name. Raises: as read()."""
        names = [name for name in self._store.folders(CONSUMERS) if _NAME.fullmatch(name)]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(self.read, names))
        return [consumer for consumer in found if consumer is not None]

    def hand(self, name: str, run_id: str) -> Consumer:
        """From now on retention keeps `run_id`. Raises: UsageError: another process acted meanwhile, or the run is gone."""
        number, consumer = self._latest(checked(name))
        consumer = consumer or Consumer(name)
        if consumer.handed != run_id:
            consumer = self._write(number, replace(consumer, handed=run_id))
        if not self._store.exists(RunPaths(run_id).record):
            raise UsageError(f"snapshot {run_id} was deleted a moment ago; run the same command again")
        return consumer

    def acknowledge(self, name: str, run_id: str) -> Consumer:
        """The consumer has `run_id`. Idempotent.

        Raises: UsageError: another set was handed out, or another process acted meanwhile.
        """
        number, consumer = self._latest(checked(name))
        if consumer is None:
            return self._write(number, Consumer(name, acknowledged=run_id))
        if run_id == consumer.handed:
            return self._write(number, Consumer(name, acknowledged=run_id))
        if run_id == consumer.acknowledged:
            return consumer
        raise UsageError(
            f"--ack {run_id}: consumer {name} has {consumer.acknowledged or 'nothing'} and was given "
            f"{consumer.handed or 'nothing since'}; acknowledge that, or begin anew with --forget"
        )

    def forget(self, name: str) -> Consumer | None:
        """Nothing is kept for it any more. Returns what it had."""
        number, consumer = self._latest(checked(name))
        for path in sorted(self._store.list(f"{CONSUMERS}/{name}")):  # the lowest first: if killed, the latest still counts
            self._store.delete(path)
        self._store.prune(f"{CONSUMERS}/{name}")
        return consumer if number else None

    def _latest(self, name: str) -> tuple[int, Consumer | None]:
        """The number and the consumer; 0 and None where there is none."""
        while True:
            numbers = self._numbers(name)
            if not numbers:
                return 0, None
            path = consumer_state(name, numbers[-1])
            try:
                raw = json.loads(self._store.read(path))
                return numbers[-1], Consumer(**raw)
            except FileNotFoundError:
                continue  # a later one has been made meanwhile
            except (ValueError, TypeError):
                raise RunAborted(
                    f"{self._store.uri_of(path)}: not a consumer's state of this program; without it the one before counts"
                ) from None

    def _numbers(self, name: str) -> list[int]:
        stems = (file_name(path).removesuffix(".json") for path in self._store.list(f"{CONSUMERS}/{name}"))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _write(self, number: int, consumer: Consumer) -> Consumer:
        told = replace(consumer, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        if not self._store.put_if_absent(consumer_state(told.name, number + 1), json.dumps(asdict(told)).encode()):
            raise UsageError(f"consumer {told.name}: another process acts for it at this moment; run the same command again")
        earlier = [at for at in self._numbers(told.name) if at <= number + 1 - _KEPT]
        self._store.discard(consumer_state(told.name, at) for at in earlier)
        return told


def held_runs(store: Store) -> Mapping[str, list[str]]:
    """Run -> names of the consumers that have it or are about to. Raises: RunAborted, UsageError, TransientError."""
    held: dict[str, list[str]] = {}
    for consumer in Consumers(store).all():
        for run_id in consumer.holds:
            held.setdefault(run_id, []).append(consumer.name)
    return held


def checked(name: str) -> str:
    """Raises: UsageError: it cannot name a folder."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise UsageError(f"--consumer {name[:80]!r}: up to 64 letters, digits, _ . and -, the first a letter or digit")
    return name

"""The objects behind the driver's lock: one small JSON a generation, `runs/lock/00000007.json`.

The highest generation is the holder's. Reads, writes and lists them, and finds out by racing whether a store creates
atomically; decides nothing (that is lock.py).
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum

from jobs.driver.process_identity import Identity
from workers.errors import ReembedError, RunAborted
from workers.storage.objects import Store

_FOLDER = "runs/lock"
_PROBES = "runs/probe"
_RACERS, _RACES = 8, 3  # a store that only seems atomic lets most races have several winners
_log = logging.getLogger("reembed")


class LockState(StrEnum):
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one driver says of itself. `since` is its wall clock, for humans only; `beat` grows while it lives."""

    token: str
    holder: Identity
    since: str
    beat: int
    state: LockState

    def __str__(self) -> str:
        holder = self.holder
        return f"the driver with pid {holder.pid} of {holder.user} on {holder.host} (since {self.since})"


class Claims:
    """The generations of one output."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def generations(self) -> list[int]:
        """All that are stored, unordered."""
        names = (path.rpartition("/")[2].removesuffix(".json") for path in self._store.list(_FOLDER))
        return [int(name) for name in names if name.isdecimal()]

    def highest(self) -> int:
        return max(self.generations(), default=0)

    def read(self, generation: int) -> Claim | None:
        """None when there is no such generation. Raises: RunAborted for an object that is not a claim."""
        path = _path(generation)
        try:
            raw = json.loads(self._store.read(path))
            return Claim(**(raw | {"holder": Identity(**raw["holder"]), "state": LockState(raw["state"])}))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            uri = self._store.uri_of(path)
            raise RunAborted(f"{uri}: not a lock of this program; delete it if no driver works on this output") from None

    def create(self, generation: int, claim: Claim) -> bool:
        return self._store.put_if_absent(_path(generation), _encode(claim))

    def replace(self, generation: int, claim: Claim) -> None:
        self._store.put(_path(generation), _encode(claim))

    def delete(self, generations: Iterable[int]) -> None:
        """A store that refuses is only logged."""
        _tidy(self._store, map(_path, generations))


def probe_atomic_create(store: Store) -> bool:
    """Race writers for fresh keys: of each race exactly one may win. Sets `store.atomic_create`; False is logged.

    Raises: UsageError, TransientError.
    """
    if not store.atomic_create:
        return False
    left = store.list(_PROBES)  # a driver whose key ran out, or that was killed, between a race and its clearing
    for _ in range(_RACES):
        winners = _race(store)
        if winners != 1 or not store.atomic_create:
            store.atomic_create = False
            _log.warning(
                "%s: conditional put is not atomic here (%d of %d racers won); the lock settles and reads back instead",
                store.uri,
                winners,
                _RACERS,
            )
            break
    # Should one be of a driver that races now, it may see a second winner: it settles and reads back, which is only slower
    _tidy(store, left)
    return store.atomic_create


def _race(store: Store) -> int:
    """How many of the racers were told that they had created the object."""
    path = f"{_PROBES}/{uuid.uuid4().hex}"
    start = threading.Barrier(_RACERS)

    def run(racer: int) -> bool:
        start.wait(timeout=60)
        return store.put_if_absent(path, f"racer {racer}".encode())

    try:
        with ThreadPoolExecutor(_RACERS) as pool:
            return sum(pool.map(run, range(_RACERS)))
    finally:
        store.delete(path)


def _tidy(store: Store, paths: Iterable[str]) -> None:
    for path in paths:
        try:
            store.delete(path)
        except ReembedError as error:  # only tidiness; the next driver tries again
            _log.warning("%s: left by an earlier driver, not deleted: %s", store.uri_of(path), error)


def _path(generation: int) -> str:
    return f"{_FOLDER}/{generation:08d}.json"


def _encode(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), sort_keys=True).encode()

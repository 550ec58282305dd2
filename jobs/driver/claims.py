"""The claims behind the driver's lock: one small JSON object for each generation, `runs/lock/00000007.json`.

The claim of the highest generation belongs to the lock's holder. This file reads, writes and lists claims; lock.py decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from jobs.driver.process_identity import Identity, Life
from workers.errors import RunAborted
from workers.storage.store import Store
from workers.table.paths import LOCK, lock_claim


class LockState(StrEnum):
    HELD = "held"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Claim:
    """One driver's claim to the lock. `since` is its wall clock, for people only; `beat` grows while the driver runs."""

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
        """The stored generations, unordered."""
        names = (path.rpartition("/")[2].removesuffix(".json") for path in self._store.list(LOCK))
        return [int(name) for name in names if name.isdecimal()]

    def highest(self) -> int:
        return max(self.generations(), default=0)

    def read(self, generation: int) -> Claim | None:
        """None when there is no such generation. Raises: RunAborted for an object that is not a claim."""
        path = lock_claim(generation)
        try:
            raw = json.loads(self._store.read(path))
            return Claim(**(raw | {"holder": Identity(**raw["holder"]), "state": LockState(raw["state"])}))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            uri = self._store.uri_of(path)
            raise RunAborted(f"{uri}: not a lock of this program; delete it if no driver works on this output") from None

    def create(self, generation: int, claim: Claim) -> bool:
        return self._store.put_if_absent(lock_claim(generation), _encode(claim))

    def replace(self, generation: int, claim: Claim) -> None:
        self._store.put(lock_claim(generation), _encode(claim))

    def delete(self, generations: Iterable[int]) -> None:
        """A store that refuses is only logged."""
        self._store.discard(map(lock_claim, generations))


def working_driver(store: Store) -> Claim | None:
    """Who holds the lock of an output, as far as storage and this machine tell; nothing is waited for.

    None: nobody, or a process of this machine that is no longer running. A driver that was killed on another machine still
    counts: only the lock itself watches its beat. Raises: UsageError, RunAborted, TransientError.
    """
    claims = Claims(store)
    claim = claims.read(claims.highest())
    if claim is None or claim.state is LockState.RELEASED:
        return None
    return None if Identity.mine().life_of(claim.holder) is Life.DEAD else claim


def _encode(claim: Claim) -> bytes:
    return json.dumps(asdict(claim), sort_keys=True).encode()

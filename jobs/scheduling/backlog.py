"""The work that waits: which shard a replica may take next.

Flow: fresh shards, in manifest order      take() -> in flight
      a shard that comes back              put()  -> backing off -> wake() -> suspects | retries -> take() …
An empty replica first takes a suspect (it must run alone); then come retries, then fresh shards.

A shard that never failed costs nothing here: it is a position in the manifest. Only shards in flight or with a past
have a History. Every call is O(1), or O(log n) in the number of shards backing off.
Does not know: the replicas' states, whom a failure is charged to, what a command is. Time comes in as `now`, in seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from workers.records.shard import Shard


@dataclass(slots=True, eq=False)
class History:
    """What has happened to one shard so far; dropped when its receipt arrives."""

    shard: Shard
    epoch: int = -1  # of its latest assignment
    dispatches: int = 0
    charged: int = 0  # failures and solo deaths held against the shard itself
    uncharged: int = 0  # storage hiccups, preemptions, lost nodes
    failed_on: set[int] = field(default_factory=set)  # replicas on which it was charged
    blamed: dict[str, int] = field(default_factory=dict)  # object uri -> the one replica that blamed it so far
    exclude: tuple[tuple[str, str], ...] = ()
    suspect: bool = False  # was in flight when a replica died: runs alone until its receipt

    def blame(self, uri: str, replica: int, reason: str, *, one_suffices: bool) -> None:
        """A replica says that this object is at fault. Once two say so, the shard goes on without it."""
        if one_suffices or self.blamed.get(uri, replica) != replica:
            self.blamed.pop(uri, None)
            self.exclude += ((uri, reason),)
        else:
            self.blamed[uri] = replica

    def may_blame(self, uri: str | None) -> bool:
        """Whether leaving out this object could help: it is one of the shard's and not left out already."""
        return any(piece.uri == uri for piece in self.shard.slices) and all(uri != gone for gone, _ in self.exclude)

    def exhausted(self, max_attempts: int) -> bool:
        """Whether the shard has had its attempts; `avoid` sees to it that they were made on two replicas, where several.

        An object that one replica blames counts as an attempt until a second agrees and it is excluded.
        """
        return self.charged + len(self.blamed) >= max_attempts

    @property
    def avoid(self) -> frozenset[int]:
        """Replicas that could tell nothing new: a second opinion must come from another one."""
        blamers = frozenset(self.blamed.values())
        return blamers | self.failed_on if len(self.failed_on) == 1 else blamers


class _Waiting:
    """Shards ready to run, grouped by the replicas they avoid, so that nobody's turn means looking at every shard."""

    def __init__(self) -> None:
        self._groups: dict[frozenset[int], deque[History]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def put(self, history: History) -> None:
        self._groups.setdefault(history.avoid, deque()).append(history)

    def take(self, replica: int) -> History | None:
        for avoid, group in self._groups.items():
            if replica not in avoid:
                del self._groups[avoid]
                history = group.popleft()
                if group:
                    self._groups[avoid] = group  # to the end: groups take turns
                return history
        return None

    def any_for(self, replica: int) -> bool:
        return any(replica not in avoid for avoid in self._groups)

    def barred(self, replicas: Collection[int]) -> bool:
        """Whether some shard avoids every one of `replicas`."""
        return any(len(avoid) >= len(replicas) and avoid.issuperset(replicas) for avoid in self._groups)


class Backlog:
    """Hands out shards to replicas and takes them back."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._next_fresh = 0
        self._retries = _Waiting()
        self._suspects = _Waiting()
        self._backing_off: list[tuple[float, int, History]] = []  # heap of (due, tie-breaker, history)
        self._puts = 0
        self._suspects_since: float | None = None  # since when suspects wait without any being served; None: none waits

    def waiting(self, *, empty: bool) -> bool:
        """Whether there may be work for a replica that has nothing in flight (`empty`), or has something."""
        return self._next_fresh < len(self._shards) or bool(self._retries) or (empty and bool(self._suspects))

    def take(self, replica: int, now: float, *, empty: bool) -> History | None:
        """The next shard for this replica, or None when all that waits avoids it."""
        if empty and self._suspects and (suspect := self._suspects.take(replica)):
            self._suspects_since = now if self._suspects else None
            return suspect
        if self._retries and (retry := self._retries.take(replica)):
            return retry
        if self._next_fresh < len(self._shards):
            self._next_fresh += 1
            return History(self._shards[self._next_fresh - 1])
        return None

    def put(self, history: History, now: float, delay: float = 0.0) -> None:
        """Take a shard back; it may run again `delay` seconds from now."""
        if delay > 0:
            self._puts += 1
            heapq.heappush(self._backing_off, (now + delay, self._puts, history))
        elif history.suspect:
            if not self._suspects:
                self._suspects_since = now
            self._suspects.put(history)
        else:
            self._retries.put(history)

    def wake(self, now: float) -> None:
        """Make ready what has backed off long enough."""
        while self._backing_off and self._backing_off[0][0] <= now:
            self.put(heapq.heappop(self._backing_off)[2], now)

    def claim(self, replica: int, now: float, patience: float) -> bool:
        """Whether a suspect that this busy replica may run has waited so long that the replica must be emptied for it.

        True once in `patience` seconds at most: one replica, once empty, serves one suspect after the other.
        """
        if self._suspects_since is None or now - self._suspects_since < patience or not self._suspects.any_for(replica):
            return False
        self._suspects_since = now
        return True

    def deadlines(self) -> Iterator[float]:
        """When the next shard has backed off long enough."""
        if self._backing_off:
            yield self._backing_off[0][0]

    def barred(self, replicas: Collection[int]) -> bool:
        """Whether a shard is ready to run that avoids every one of `replicas`."""
        return self._suspects.barred(replicas) or self._retries.barred(replicas)

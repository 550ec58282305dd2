"""The backlog: the shards that wait for a replica, and which of them a replica takes next.

Flow: fresh shards, in manifest order      take() -> in flight
      a shard that is retried              put()  -> backing off -> wake() -> suspects | retries -> take() …
An empty replica first takes a suspect (which must run alone). After suspects come retries, then fresh shards.

A shard that never failed is only a position in the manifest. Shards in flight, or with earlier attempts, have a History.
Every call is O(1), or O(log n) in the number of shards backing off. Does not know: the replicas' states, which failures are
charged, commands. Time is the argument `now`, in seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from workers.records.shard import Shard


@dataclass(slots=True, eq=False)
class History:
    """The attempts made at one shard so far; dropped when its receipt arrives."""

    shard: Shard
    epoch: int = -1  # of its latest assignment
    dispatches: int = 0
    charged: int = 0  # failed attempts that count against the shard
    uncharged: int = 0  # attempts lost to storage errors, preemption or a lost node
    failed_on: set[int] = field(default_factory=set)  # replicas with a charged attempt
    no_room: set[int] = field(default_factory=set)  # replicas whose local disk was full
    blamed: dict[str, int] = field(default_factory=dict)  # object uri -> the one replica that blamed it so far
    excluded_objects: tuple[tuple[str, str], ...] = ()  # (uri, reason)
    suspect: bool = False  # was in flight when a replica died, or found its disk full: runs alone until its receipt

    def blame(self, uri: str, replica: int, reason: str, *, one_suffices: bool) -> None:
        """A replica blames this object. Once two replicas have, the object is excluded."""
        if one_suffices or self.blamed.get(uri, replica) != replica:
            self.blamed.pop(uri, None)
            self.excluded_objects += ((uri, reason),)
        else:
            self.blamed[uri] = replica

    def may_blame(self, uri: str | None) -> bool:
        """Whether the object belongs to the shard and is not excluded yet."""
        in_shard = any(piece.uri == uri for piece in self.shard.slices)
        return in_shard and all(uri != excluded for excluded, _ in self.excluded_objects)

    def exhausted(self, max_attempts: int) -> bool:
        """Whether the shard has used up its attempts; `excluded_replicas` makes them run on two replicas, where possible.

        An object that one replica blames counts as an attempt until a second agrees and it is excluded.
        """
        return self.charged + len(self.blamed) >= max_attempts

    @property
    def excluded_replicas(self) -> frozenset[int]:
        """Replicas that must not make the next attempt, because a second opinion has to come from another one."""
        blamers = frozenset(self.blamed.values()) | self.no_room
        return blamers | self.failed_on if len(self.failed_on) == 1 else blamers


class _ReadyShards:
    """Shards ready to run, grouped by their excluded replicas, so that a lookup never scans every shard."""

    def __init__(self) -> None:
        self._groups: dict[frozenset[int], deque[History]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def put(self, history: History) -> None:
        self._groups.setdefault(history.excluded_replicas, deque()).append(history)

    def take(self, replica: int) -> History | None:
        for excluded, group in self._groups.items():
            if replica not in excluded:
                del self._groups[excluded]
                history = group.popleft()
                if group:
                    self._groups[excluded] = group  # to the end: groups are served round-robin
                return history
        return None

    def any_for(self, replica: int) -> bool:
        return any(replica not in excluded for excluded in self._groups)

    def excluded_on_all(self, replicas: Collection[int]) -> bool:
        """Whether some shard excludes every one of `replicas`."""
        return any(len(excluded) >= len(replicas) and excluded.issuperset(replicas) for excluded in self._groups)


class _FreshShards:
    """Shards that were never tried, in manifest order: a position."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards, self._next = shards, 0

    def __bool__(self) -> bool:
        return self._next < len(self._shards)

    def take(self, replica: int) -> Shard:  # noqa: ARG002 - no shard is anybody's
        self._next += 1
        return self._shards[self._next - 1]

    def abandon(self, replica: int) -> None:
        """No shard is anybody's."""


class _HomedShards:
    """The same, where a replica first takes its own shards, then those of nobody, then the last one of whoever has most."""

    def __init__(self, shards: Sequence[Shard], homes: Mapping[int, int]) -> None:
        self._nobodys: deque[Shard] = deque()
        self._own: dict[int, deque[Shard]] = {}
        self._left = len(shards)
        for shard in shards:
            home = homes.get(shard.number)
            (self._nobodys if home is None else self._own.setdefault(home, deque())).append(shard)

    def __bool__(self) -> bool:
        return self._left > 0

    def take(self, replica: int) -> Shard:
        self._left -= 1
        own = self._own.get(replica)
        if own:
            return own.popleft()
        if self._nobodys:
            return self._nobodys.popleft()
        return max(self._own.values(), key=len).pop()

    def abandon(self, replica: int) -> None:
        self._nobodys.extend(self._own.pop(replica, ()))


class Backlog:
    """Hands out shards to replicas, and takes back those that must be retried."""

    def __init__(self, shards: Sequence[Shard], homes: Mapping[int, int] | None = None) -> None:
        """`homes`: shard number -> the replica that should have it if it can, because it has read it before."""
        self._fresh = _FreshShards(shards) if homes is None else _HomedShards(shards, homes)
        self._retries = _ReadyShards()
        self._suspects = _ReadyShards()
        self._backing_off: list[tuple[float, int, History]] = []  # heap of (due, tie-breaker, history)
        self._puts = 0
        self._suspects_since: float | None = None  # when a suspect was last served, or the first came; None: none waits

    def waiting(self, *, empty: bool) -> bool:
        """Whether there may be work for a replica with nothing in flight (`empty`), or with something in flight."""
        return bool(self._fresh) or bool(self._retries) or (empty and bool(self._suspects))

    def take(self, replica: int, now: float, *, empty: bool) -> History | None:
        """The next shard for this replica; None when every waiting shard excludes it."""
        if empty and self._suspects and (suspect := self._suspects.take(replica)):
            self._suspects_since = now if self._suspects else None
            return suspect
        if self._retries and (retry := self._retries.take(replica)):
            return retry
        fresh = self._fresh.take(replica) if self._fresh else None
        return History(fresh) if fresh is not None else None

    def abandon(self, replica: int) -> None:
        """The replica is gone: its shards are for any other."""
        self._fresh.abandon(replica)

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
        """Make ready the shards whose back-off is over."""
        while self._backing_off and self._backing_off[0][0] <= now:
            self.put(heapq.heappop(self._backing_off)[2], now)

    def reserve(self, replica: int, now: float, after: float) -> bool:
        """Whether this busy replica must be drained for a suspect, because suspects have waited `after` seconds.

        True at most once in `after` seconds: an empty replica runs one suspect after another, so one is enough.
        """
        if self._suspects_since is None or now - self._suspects_since < after or not self._suspects.any_for(replica):
            return False
        self._suspects_since = now
        return True

    def deadlines(self) -> Iterator[float]:
        """When the next back-off ends."""
        if self._backing_off:
            yield self._backing_off[0][0]

    def excluded_on_all(self, replicas: Collection[int]) -> bool:
        """Whether a shard is ready to run that excludes every one of `replicas`."""
        return self._suspects.excluded_on_all(replicas) or self._retries.excluded_on_all(replicas)

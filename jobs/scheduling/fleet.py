"""The fleet: the live replicas, their free slots and their deadlines; and when lost replicas are restarted.

Flow: start() -> starting -> ready() -> open at load 0 -> assign() -> open at load 1 … full -> release() -> open again
      remove() at any time: the replica is forgotten, and later messages from it are ignored.
An id is used once, so a late message of a removed replica cannot be taken for another replica's.

Each call is O(1), or O(log n) for a back-off. All deadlines of one kind have the same length, and time does not run
backwards. A dict in order of insertion is therefore in order of deadline, and its first entry is the most urgent.
Does not know: why a replica is started or removed, what waits in the backlog, which failures are charged.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.scheduling.backlog import History
from jobs.scheduling.policy import Policy


@dataclass(slots=True, eq=False)
class Replica:
    """One live replica, as the driver sees it."""

    id: int
    ready: bool = False
    in_flight: dict[int, History] = field(default_factory=dict)  # by shard number, the oldest first
    tokens: int = 0  # running total it reported
    failures: int = 0  # in a row, without a receipt
    full_disks: int = 0  # of these, those by a full local disk
    backoff_until: float = -math.inf  # no new work before
    draining: bool = False  # no new work until it is empty
    open_at: int | None = None  # the load under which the fleet lists it as open

    @property
    def oldest(self) -> History | None:
        return next(iter(self.in_flight.values()), None)

    @property
    def alone(self) -> bool:
        """Whether it runs a suspect, beside which no other shard may run."""
        return any(history.suspect for history in self.in_flight.values())


class Fleet:
    """The live replicas and their deadlines, in seconds of the caller's clock."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.live: dict[int, Replica] = {}
        self.starting: dict[int, float] = {}  # id -> when it must be ready
        self._shard_due: dict[int, float] = {}  # id -> when its oldest shard must be finished
        self._open: list[dict[int, Replica]] = [{} for _ in range(policy.slots)]  # by shards in flight
        self._backing_off: list[tuple[float, int]] = []  # heap of (until, id)
        self._started = 0
        self.running = 0  # shards in flight, over all replicas

    @property
    def ready_count(self) -> int:
        return len(self.live) - len(self.starting)

    @property
    def full_disks(self) -> int:
        """Failures by a full local disk, if every ready replica has had one since its last receipt; else 0."""
        found = [replica.full_disks for replica in self.live.values() if replica.ready]
        return sum(found) if all(found) else 0

    def start(self, now: float) -> int:
        """A new replica's id; its time to become ready starts now."""
        replica = Replica(self._started)
        self._started += 1
        self.live[replica.id] = replica
        self.starting[replica.id] = now + self._policy.ready_seconds
        return replica.id

    def ready(self, replica: Replica, now: float) -> None:
        """The replica takes work from now on."""
        del self.starting[replica.id]
        replica.ready = True
        self._update_open(replica, now)

    def remove(self, replica: Replica) -> list[History]:
        """Forget the replica. Returns its shards in flight, oldest first."""
        del self.live[replica.id]
        self.starting.pop(replica.id, None)
        self._shard_due.pop(replica.id, None)
        if replica.open_at is not None:
            del self._open[replica.open_at][replica.id]
        self.running -= len(replica.in_flight)
        return list(replica.in_flight.values())

    def assign(self, replica: Replica, history: History, now: float) -> None:
        """Put a shard in flight on the replica."""
        if not replica.in_flight:
            self._shard_due[replica.id] = now + self._policy.shard_seconds
        replica.in_flight[history.shard.number] = history
        self.running += 1
        self._update_open(replica, now)

    def release(self, replica: Replica, history: History, now: float) -> None:
        """Take a finished or failed shard out of flight. The time of the next one starts now: until now it was queued."""
        if replica.oldest is history:
            del self._shard_due[replica.id]
            if len(replica.in_flight) > 1:
                self._shard_due[replica.id] = now + self._policy.shard_seconds
        del replica.in_flight[history.shard.number]
        replica.draining = replica.draining and bool(replica.in_flight)
        self.running -= 1
        self._update_open(replica, now)

    def back_off(self, replica: Replica, now: float, seconds: float) -> None:
        """Give the replica no new work for `seconds`."""
        replica.backoff_until = now + seconds
        heapq.heappush(self._backing_off, (replica.backoff_until, replica.id))
        self._update_open(replica, now)

    def wake(self, now: float) -> None:
        """Open the replicas whose back-off is over."""
        while self._backing_off and self._backing_off[0][0] <= now:
            replica = self.live.get(heapq.heappop(self._backing_off)[1])
            if replica is not None:
                self._update_open(replica, now)

    def open(self, load: int) -> tuple[Replica, ...]:
        """Ready replicas with exactly `load` shards in flight that may take one more, longest open first."""
        return tuple(self._open[load].values())

    def drain(self, replica: Replica, now: float) -> None:
        """Give the busy replica no more work until it is empty."""
        replica.draining = True
        self._update_open(replica, now)

    def overdue_start(self, now: float) -> Replica | None:
        """A replica that did not become ready in time."""
        return self._overdue(self.starting, now)

    def overdue_shard(self, now: float) -> Replica | None:
        """A replica whose oldest shard did not finish in time."""
        return self._overdue(self._shard_due, now)

    def deadlines(self) -> Iterator[float]:
        """The earliest deadline of each kind."""
        for due in (self.starting, self._shard_due):
            if due:
                yield next(iter(due.values()))
        if self._backing_off:
            yield self._backing_off[0][0]

    def _update_open(self, replica: Replica, now: float) -> None:
        if replica.open_at is not None:
            del self._open[replica.open_at][replica.id]
        load = len(replica.in_flight)
        closed = replica.alone or replica.draining or replica.backoff_until > now
        replica.open_at = load if replica.ready and load < self._policy.slots and not closed else None
        if replica.open_at is not None:
            self._open[load][replica.id] = replica

    def _overdue(self, due: dict[int, float], now: float) -> Replica | None:
        first = next(iter(due), None)
        return self.live[first] if first is not None and due[first] <= now else None


class Restarts:
    """When the next replica may be started, and when no more starts are tried."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._losses = 0  # since the last receipt
        self.failed_in_a_row = 0  # failed starts, with no replica ready at any time since the first
        self.not_before = -math.inf

    def replica_lost(self, now: float) -> None:
        """A replica was lost. Losses at the same time, or before the delay is over, count as one."""
        if now >= self.not_before:
            self._losses += 1
            self.not_before = now + self._policy.backoff(self._losses)

    def start_failed(self, now: float, *, charged: bool, any_ready: bool) -> None:
        """A replica was lost before it was ready."""
        self.replica_lost(now)
        if any_ready:
            self.failed_in_a_row = 0
        elif charged:
            self.failed_in_a_row += 1

    def succeeded(self, *, receipt: bool) -> None:
        """A replica became ready, or (`receipt`) finished a shard."""
        self.failed_in_a_row = 0
        if receipt:
            self._losses = 0

    @property
    def exhausted(self) -> bool:
        """No more starts are tried. The run goes on only if one of the replicas still starting becomes ready."""
        return self.failed_in_a_row >= self._policy.max_failed_starts

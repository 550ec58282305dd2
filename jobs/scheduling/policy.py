"""What the scheduler is told once, and what it answers: the Policy of a run, and the commands the pool carries out.

Plain records. They know neither the scheduler nor the cluster; both know them.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.records.shard import Assignment


@dataclass(frozen=True, slots=True)
class Policy:
    """How much failure is borne, and for how long is waited."""

    max_attempts: int = 3  # attempts charged to a shard before it is quarantined; made on two replicas unless 1
    slots: int = 2  # shards in flight per replica: one is embedded while the next is read
    ready_seconds: float = 900.0  # a replica that is not ready by then is given up
    shard_seconds: float = 7200.0  # a shard that takes longer, once it is its replica's oldest, is taken away
    stall_seconds: float = 1800.0  # no document embedded anywhere for so long aborts the run
    max_uncharged: int = 20  # preemptions, lost nodes and storage hiccups one shard may meet
    max_failed_starts: int = 3  # failed starts in a row, with no replica ready, before the run is given up
    backoff_seconds: float = 1.0  # first delay of a restart or a transient retry; doubles each time …
    max_backoff_seconds: float = 60.0  # … up to this
    suspect_seconds: float = 60.0  # suspects waited so long for an empty replica: one is emptied for them

    def __post_init__(self) -> None:
        if min(self.max_attempts, self.slots, self.max_failed_starts) < 1:
            raise ValueError("policy: max_attempts, slots and max_failed_starts must be at least 1")

    def backoff(self, times: int) -> float:
        """Seconds to wait after `times` (1 or more) setbacks in a row."""
        return min(self.max_backoff_seconds, self.backoff_seconds * 2.0 ** min(times - 1, 60))


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start a replica under this id, which was never used before."""

    replica: int


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Kill this replica now; its late words are dropped."""

    replica: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Give this ready replica a shard."""

    replica: int
    assignment: Assignment


Command = StartReplica | StopReplica | Dispatch

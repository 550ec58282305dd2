"""The messages between the driver's loop, the scheduler and the replica pool.

Events (Ready, Lost, Finished, Stats)              from a replica to the driver's loop
Commands (StartReplica, StopReplica, Dispatch)     from the scheduler to the replica pool

Frozen records of plain values; no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.errors import UsageError
from workers.records.shard import Assignment, ReplicaStats


@dataclass(frozen=True, slots=True)
class Ready:
    """The replica has loaded its model and takes assignments."""

    replica: int
    facts: Mapping[str, Any]  # node, pid, device, precision, seconds to load


@dataclass(frozen=True, slots=True)
class Lost:
    """The replica's process has ended."""

    replica: int
    reason: str
    charged: bool  # counts as a failed attempt of its shard; False: preemption or node loss
    starting: bool  # it was lost before it was ready
    error: UsageError | None = None  # the replica says that the request itself cannot be carried out


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt at a shard has ended."""

    replica: int
    outcome: Any  # Receipt | Failure; of a pass: PassResult | Receipt | Failure (workers/vectors/worker.py)


@dataclass(frozen=True, slots=True)
class Stats:
    """The replica's running totals since its start."""

    replica: int
    stats: ReplicaStats


Event = Ready | Lost | Finished | Stats


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start a replica under this id. An id is used once."""

    replica: int


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Kill this replica now; later messages from it are ignored."""

    replica: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Give this ready replica a shard."""

    replica: int
    assignment: Assignment


Command = StartReplica | StopReplica | Dispatch

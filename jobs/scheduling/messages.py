"""What comes up from the replicas, as the driver's loop hears it. Plain records; no ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.errors import UsageError
from workers.records.shard import Failure, Receipt, ReplicaStats


@dataclass(frozen=True, slots=True)
class Ready:
    replica: int
    facts: Mapping[str, Any]  # node, pid, device, precision, seconds to load


@dataclass(frozen=True, slots=True)
class Lost:
    replica: int
    reason: str
    charged: bool  # False: preemption or node loss, nobody's fault
    starting: bool
    error: UsageError | None = None  # the replica says that the request itself cannot be carried out


@dataclass(frozen=True, slots=True)
class Finished:
    replica: int
    outcome: Receipt | Failure


@dataclass(frozen=True, slots=True)
class Stats:
    replica: int
    stats: ReplicaStats


Event = Ready | Lost | Finished | Stats

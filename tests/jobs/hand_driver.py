"""A driver worked by hand: the test says what happens and when, one event at a time; plus fake shards and receipts."""

from __future__ import annotations

import dataclasses
from typing import Any

from jobs.scheduling.messages import Command, StartReplica, StopReplica
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from workers.records.shard import Assignment, Blame, Failure, ObjectSlice, Receipt, Shard

QUICK = Policy(ready_seconds=100, shard_seconds=50, stall_seconds=1000, backoff_seconds=2, max_backoff_seconds=16)


def make_shard(number: int, objects: int = 1) -> Shard:
    pieces = (ObjectSlice(f"s3://corpus/{number}-{i}.jsonl", 10, "etag", 0, 10) for i in range(objects))
    return Shard(number, tuple(pieces), text_bytes=10)


def make_receipt(shard: int, epoch: int, *, adopted: bool = False) -> Receipt:
    return Receipt(shard, epoch, 1, 1, 1, 0, (), 9, 9, 0, 0, (), None, {}, 1.0, "fake", adopted)


class Driver:
    """Carries commands out at once and remembers them; `now` moves only by hand."""

    def __init__(
        self, shards: int = 1, replicas: int = 1, policy: Policy = QUICK, *, objects: int = 1, **changes: Any
    ) -> None:
        self.run = Scheduler(
            [make_shard(number, objects) for number in range(shards)], dataclasses.replace(policy, **changes), replicas, 10
        )
        self.now = 0.0
        self.log: list[Command] = []
        self.in_flight: dict[int, list[Assignment]] = {}
        self.step()

    def step(self, seconds: float = 0.0) -> list[Command]:
        self.now += seconds
        commands = self.run.decide(self.now)
        self.log += commands
        for command in commands:
            if isinstance(command, StartReplica):
                self.in_flight[command.replica] = []
            elif isinstance(command, StopReplica):
                del self.in_flight[command.replica]
            else:
                self.in_flight[command.replica].append(command.assignment)
        return commands

    def ready(self, *replicas: int) -> list[Command]:
        for replica in replicas:
            self.run.on_ready(replica, self.now)
        return self.step()

    def shards(self, replica: int) -> list[int]:
        return [task.shard.number for task in self.in_flight[replica]]

    def receipt(self, replica: int) -> list[Command]:
        task = self.in_flight[replica].pop(0)
        assert self.run.on_receipt(replica, make_receipt(task.shard.number, task.epoch), self.now)
        return self.step()

    def fail(self, replica: int, blame: Blame, reason: str = "why", uri: str | None = None) -> list[Command]:
        task = self.in_flight[replica][0]
        if blame is not Blame.REPLICA:
            self.in_flight[replica].pop(0)
        assert self.run.on_failure(replica, Failure(task.shard.number, task.epoch, blame, reason, uri), self.now)
        return self.step()

    def lose(self, replica: int, reason: str = "killed", **how: bool) -> list[Command]:
        self.in_flight.pop(replica)
        self.run.on_lost(replica, reason, self.now, **how)
        return self.step()

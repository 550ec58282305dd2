"""A cluster in virtual time: carries out the scheduler's commands on fake replicas that die, hang, lie late and fail.

Flow: commands -> FakeReplica (works its queue one shard at a time) -> delayed reports -> the scheduler's events -> commands
The driver's view (`in_flight`, `charges`, `suspects` …) is kept here independently, by the written rules, and every command
is checked against it. decide() is called after each report and at next_deadline() only, so a forgotten deadline shows as a
run that never ends.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.agenda import Agenda
from jobs.scheduling.messages import Command, Dispatch, StartReplica, StopReplica
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from tests.jobs.hand_driver import make_receipt, make_shard
from tests.jobs.scenario import BROKEN, CORRUPT, FLAKY, HEALTHY, HUNG, POISON, Scenario
from workers.records.shard import Assignment, Blame, Failure

FIRST_EPOCH = 1000


@dataclass
class FakeReplica:
    id: int
    queue: list[Assignment] = field(default_factory=list)
    busy: bool = False
    alive: bool = True
    documents: int = 0
    reported: float = 0.0  # when its last report arrives: reports keep their order


class VirtualCluster:
    """One run. After run(): scheduler's outcome, and the independent account of it."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self.random = random.Random(scenario.seed)
        self.scenario, self.policy = scenario, policy
        kinds = [POISON, BROKEN, HUNG, CORRUPT, FLAKY]
        draw = self.random.random
        self.kind = [self.random.choice(kinds) if draw() < scenario.bad_shards else HEALTHY for _ in range(scenario.shards)]
        self.shards = [make_shard(number, objects=self.random.randint(1, 3)) for number in range(scenario.shards)]
        self.corrupt = {
            s.number: {p.uri for p in s.slices if draw() < 0.7} for s in self.shards if self.kind[s.number] == CORRUPT
        }
        self.scheduler = Scheduler(self.shards, policy, scenario.replicas, FIRST_EPOCH)
        self.target = scenario.replicas
        self._agenda = Agenda()
        self.replicas: dict[int, FakeReplica] = {}
        # the driver's view
        self.ready: set[int] = set()
        self.live: set[int] = set()
        self.in_flight: dict[int, dict[int, int]] = {}  # replica -> shard -> epoch, oldest first
        self.suspects: set[int] = set()
        self.charges: dict[int, list[int]] = defaultdict(list)  # shard -> replicas
        self.blames: dict[tuple[int, str], set[int]] = defaultdict(set)
        self.excluded: dict[int, set[str]] = defaultdict(set)
        self.dispatched: Counter[int] = Counter()
        self.done: set[int] = set()
        self.failed_starts_in_a_row = 0
        self.late_messages = 0

    def run(self, max_steps: int = 1_000_000) -> VirtualCluster:
        for _ in range(self.scenario.resizes):
            self._at(self.random.uniform(0, 200), self._resize)
        for _ in range(max_steps):
            for command in self.scheduler.decide(self.now):
                self._execute(command)
            # A driver asks a moment after it decided; nothing that fell due in between may be forgotten.
            due = self.scheduler.next_deadline(self.now + self.random.uniform(0, 0.1))
            if due is None:
                return self
            assert due > self.now, "a deadline that the decision has dealt with would be a busy loop"
            self._agenda.step(until=due)
        raise AssertionError("the run does not end")

    @property
    def now(self) -> float:
        return self._agenda.now

    def _at(self, delay: float, happen: Callable[[], None]) -> None:
        self._agenda.at(delay, happen)

    def _report(self, replica: FakeReplica, event: Callable[[], None]) -> None:
        replica.reported = max(replica.reported, self.now + self.random.uniform(0, 0.5))
        self._at(replica.reported - self.now, event)

    def _resize(self) -> None:
        self.target = self.random.randint(1, 2 * self.scenario.replicas)
        self.scheduler.resize(self.target)

    # -- commands, each checked against the rules

    def _execute(self, command: Command) -> None:
        match command:
            case StartReplica(replica):
                assert replica not in self.replicas, "an id is used twice"
                self.live.add(replica)
                remaining = self.scenario.shards - len(self.done) - len(self.scheduler.quarantined)
                assert len(self.live) <= min(self.target, remaining)
                self.in_flight[replica] = {}
                self._start(FakeReplica(replica))
            case StopReplica(replica, reason):
                assert replica in self.live
                assert reason
                if replica not in self.ready and "cluster.replica_ready_seconds" in reason:
                    self.failed_starts_in_a_row += 1
                if "run.shard_seconds" in reason:
                    self._blame_death([next(iter(self.in_flight[replica]))], replica)
                self._gone(replica)
                self.replicas[replica].alive = self.random.random() < self.scenario.zombies
            case Dispatch(replica, assignment):
                self._check_dispatch(replica, assignment)
                self.replicas[replica].queue.append(assignment)
                self._work(self.replicas[replica])

    def _check_dispatch(self, replica: int, assignment: Assignment) -> None:
        shard, mine = assignment.shard.number, self.in_flight[replica]
        assert replica in self.ready
        assert replica in self.live
        assert len(mine) < self.policy.slots
        assert all(shard not in self.in_flight[other] for other in self.live), "in flight on two live replicas"
        assert shard not in self.done
        assert shard not in self.scheduler.quarantined
        assert not mine or shard not in self.suspects, "a suspect joins others"
        assert not self.suspects.intersection(mine), "a suspect is joined"
        assert assignment.epoch == FIRST_EPOCH + self.dispatched.total()
        self.dispatched[shard] += 1
        assert assignment.attempt == self.dispatched[shard]
        assert {uri for uri, _ in assignment.exclude} == self.excluded[shard]
        mine[shard] = assignment.epoch

    def _gone(self, replica: int) -> list[int]:
        self.live.discard(replica)
        self.ready.discard(replica)
        flights, self.in_flight[replica] = list(self.in_flight[replica]), {}
        return flights

    # -- what the fakes do

    def _start(self, replica: FakeReplica) -> None:
        self.replicas[replica.id] = replica
        fate, latency = self.random.random(), self.random.uniform(1, 20)
        if fate < self.scenario.failed_starts:
            self._at(latency, lambda: self._die(replica, "no GPU memory", charged=True))
        else:
            if fate < self.scenario.failed_starts + self.scenario.never_ready:
                latency = self.policy.ready_seconds * self.random.uniform(1.05, 3)
            self._at(latency, lambda: self._load(replica))
            if self.random.random() < self.scenario.preempted:
                self._at(self.random.uniform(0, 100), lambda: self._die(replica, "preempted", charged=False))

    def _load(self, replica: FakeReplica) -> None:
        if replica.alive:
            self._report(replica, lambda: self._on_ready(replica))

    def _work(self, replica: FakeReplica) -> None:
        if replica.alive and not replica.busy and replica.queue:
            assignment = replica.queue.pop(0)
            replica.busy = True
            seconds = self.random.expovariate(1 / 5) + 0.01
            if self.kind[assignment.shard.number] == HUNG:
                seconds = self.policy.shard_seconds * self.random.uniform(1.05, 3)
            self._at(seconds, lambda: self._end(replica, assignment))

    def _end(self, replica: FakeReplica, assignment: Assignment) -> None:
        if not replica.alive:
            return
        replica.busy, shard = False, assignment.shard.number
        kind, excluded = self.kind[shard], {uri for uri, _ in assignment.exclude}
        bad = sorted(self.corrupt.get(shard, set()) - excluded)
        if kind == POISON:
            self._die(replica, "kills: segmentation fault", charged=True)
            return
        if self.random.random() < self.scenario.device_faults:
            self._fail(replica, assignment, Blame.REPLICA, "CUDA error")
        elif kind == BROKEN:
            self._fail(replica, assignment, Blame.SHARD, "broken: unexpected exception")
        elif bad:
            self._fail(replica, assignment, Blame.OBJECT, f"corrupt: {bad[0]}", bad[0])
        elif kind == FLAKY and self.random.random() < 0.6:
            self._fail(replica, assignment, Blame.NOBODY, "503 from the storage")
        else:
            replica.documents += 1
            documents = replica.documents
            self._report(replica, lambda: self.scheduler.on_progress(replica.id, documents, self.now))
            self._report(replica, lambda: self._on_receipt(replica, assignment))
        self._work(replica)

    def _die(self, replica: FakeReplica, reason: str, *, charged: bool) -> None:
        if replica.alive:
            replica.alive = False
            self._report(replica, lambda: self._on_lost(replica, reason, charged=charged))

    def _fail(self, replica: FakeReplica, task: Assignment, blame: Blame, reason: str, uri: str | None = None) -> None:
        failure = Failure(task.shard.number, task.epoch, blame, reason, uri)
        self._report(replica, lambda: self._on_failure(replica, failure))

    # -- reports: first into the account, by the rules; then to the scheduler

    def _on_ready(self, replica: FakeReplica) -> None:
        if replica.id in self.live:
            self.ready.add(replica.id)
            self.failed_starts_in_a_row = 0
        self.scheduler.on_ready(replica.id, self.now)

    def _on_receipt(self, replica: FakeReplica, task: Assignment) -> None:
        current = self.in_flight[replica.id].pop(task.shard.number, None) is not None
        self.late_messages += not current
        if current:
            self.done.add(task.shard.number)
            self.suspects.discard(task.shard.number)
        assert self.scheduler.on_receipt(replica.id, make_receipt(task.shard.number, task.epoch), self.now) is current

    def _on_failure(self, replica: FakeReplica, failure: Failure) -> None:
        current = failure.shard in self.in_flight[replica.id]
        self.late_messages += not current
        if current and failure.blame is Blame.REPLICA:
            self._blame_death(list(self.in_flight[replica.id]), replica.id)
        elif current:
            del self.in_flight[replica.id][failure.shard]
            if failure.blame is Blame.SHARD:
                self.charges[failure.shard].append(replica.id)
            elif failure.object_uri is not None:
                blamers = self.blames[failure.shard, failure.object_uri]
                assert replica.id not in blamers, "asked the same replica twice about one object"
                blamers.add(replica.id)
                if len(blamers) == min(2, self.policy.max_attempts):
                    self.excluded[failure.shard].add(failure.object_uri)
        assert self.scheduler.on_failure(replica.id, failure, self.now) is current

    def _on_lost(self, replica: FakeReplica, reason: str, *, charged: bool) -> None:
        if replica.id in self.live:
            self.failed_starts_in_a_row += replica.id not in self.ready and charged
            flights = self._gone(replica.id)
            if charged:
                self._blame_death(flights, replica.id)
        self.scheduler.on_lost(replica.id, reason, self.now, charged=charged)

    def _blame_death(self, flights: list[int], replica: int) -> None:
        self.suspects.update(flights)
        if len(flights) == 1:
            self.charges[flights[0]].append(replica)

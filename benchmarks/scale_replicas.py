"""Simulated replicas in virtual time, in place of ReplicaPool: they load, work, straggle, fail and are preempted.

Flow: the driver's commands -> agenda -> wait() jumps to the next entry -> events for the driver

The time of the replicas is summed by kind, and the CPU time of the simulation is measured apart from the driver's. They
write no parts: a done shard only gets a mark.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, field

from benchmarks.agenda import Agenda
from benchmarks.scale_weather import Weather
from jobs.pool.actor_pool import GATHER_SECONDS, GATHER_SECONDS_A_CALL, stats_seconds
from jobs.scheduling.messages import Command, Dispatch, Event, Finished, Lost, Ready, StartReplica, Stats, StopReplica
from workers.records.shard import Assignment, Blame, Failure, OutputFile, Receipt, ReplicaStats
from workers.replica.settings import ResolvedSettings

POLL_SECONDS = 0.25
TOKENS = 16_000_000  # of a shard of 64 MiB
STAGES = {"read": 0.07, "tokenize": 0.4, "encode": 0.98, "wait": 0.02, "write": 0.05}  # side by side


@dataclass(slots=True)
class _Fake:
    id: int
    began: float
    ready: bool = False
    alive: bool = True
    queue: deque[Assignment] = field(default_factory=deque)
    since: float | None = None  # when its present attempt began
    done: int = 0
    busy: float = 0.0


@dataclass(slots=True)
class Times:
    """Seconds summed over all replicas."""

    held: float = 0.0  # from start to end
    useful: float = 0.0  # attempts that ended with a receipt
    lost: float = 0.0  # attempts that did not
    loading: float = 0.0

    @property
    def idle(self) -> float:
        return self.held - self.useful - self.lost - self.loading


class FakeReplicas:
    """As ReplicaPool, for jobs.embed.session. `part`: describes every shard's part; `parts`: one mark a shard."""

    def __init__(
        self, agenda: Agenda, weather: Weather, seed: int, shard_seconds: float, part: OutputFile, parts: bytearray
    ) -> None:
        self._agenda, self._weather, self._draw = agenda, weather, random.Random(seed)
        self._shard_seconds, self._part, self._parts = shard_seconds, part, parts
        self._left = len(parts)
        self._live: dict[int, _Fake] = {}
        self._events: list[Event] = []
        self._polled = 0.0  # share of a replica that is still owed a question
        self._asked: deque[int] = deque()
        self.times = Times()
        self.attempts: list[float] = []  # seconds of those that ended with a receipt
        self.happened = dict.fromkeys(("started", "preempted", "failed", "hiccups"), 0)
        self.idle_since: float | None = None  # since when there has always been a ready replica with nothing to do
        self.ended = 0.0
        self.dispatched = 0
        self.cpu_seconds = 0.0
        self._poll()

    # -- what the driver asks for

    def execute(self, command: Command) -> None:
        began = time.thread_time()
        match command:
            case StartReplica(replica):
                self._start(replica)
            case Dispatch(replica, assignment):
                self.dispatched += 1
                fake = self._live[replica]
                fake.queue.append(assignment)
                self._work(fake)
            case StopReplica(replica, _):
                self._end(self._live[replica])
        self.cpu_seconds += time.thread_time() - began

    def wait(self, timeout: float) -> list[Event]:
        began = time.thread_time()
        until = self._agenda.now + timeout
        while not self._events and self._agenda.step(until):
            pass
        if self._events:  # ReplicaPool lets what ends together gather
            calls = 2 * len(self._live) * GATHER_SECONDS_A_CALL
            until = self._agenda.now + min(calls, GATHER_SECONDS)
            while self._agenda.step(until):
                pass
        events, self._events = self._events, []
        self.cpu_seconds += time.thread_time() - began
        return events

    def configure(self, resolved: ResolvedSettings) -> None:
        """Replicas are started afterwards only."""

    def last_stats(self, _timeout: float) -> list[Stats]:
        return [self._stats(fake) for fake in self._live.values() if fake.ready]

    def golden(self, _timeout: float) -> list[object]:
        return []

    def close(self) -> None:
        self.ended = self._agenda.now
        for fake in list(self._live.values()):
            self._end(fake)

    # -- what happens

    def _start(self, replica: int) -> None:
        fake = self._live[replica] = _Fake(replica, self._agenda.now)
        self.happened["started"] += 1
        self._agenda.at(self._draw.uniform(*self._weather.start_seconds), lambda: self._load(fake))
        for rate, reason, charged in ((self._weather.preempted, "preempted", False), (self._weather.failed, "failed", True)):
            if rate:
                seconds = self._draw.expovariate(rate / 3600)
                self._agenda.at(seconds, lambda reason=reason, charged=charged: self._die(fake, reason, charged))  # type: ignore[misc]

    def _load(self, fake: _Fake) -> None:
        if fake.alive:
            fake.ready = True
            self.times.loading += self._agenda.now - fake.began
            self._asked.append(fake.id)
            self._events.append(Ready(fake.id, {"node": f"node-{fake.id // 8}", "device": "simulated"}))

    def _work(self, fake: _Fake) -> None:
        if fake.since is None and fake.queue:
            fake.since, assignment = self._agenda.now, fake.queue.popleft()
            seconds = self._weather.seconds(self._shard_seconds, self._draw)
            self._agenda.at(seconds, lambda: self._finish(fake, assignment))

    def _finish(self, fake: _Fake, assignment: Assignment) -> None:
        if not fake.alive or fake.since is None:
            return
        seconds, fake.since = self._agenda.now - fake.since, None
        number = assignment.shard.number
        if self._draw.random() < self._weather.hiccups:
            self.happened["hiccups"] += 1
            self.times.lost += seconds
            outcome: Receipt | Failure = Failure(number, assignment.epoch, Blame.NOBODY, "503 SlowDown")
        else:
            self.times.useful += seconds
            self.attempts.append(seconds)
            fake.done += 1
            fake.busy += seconds
            self._parts[number] = 1
            self._left -= 1
            ended = 1.79e9 + self._agenda.now
            outcome = make_receipt(number, assignment.epoch, self._part, seconds, f"replica-{fake.id}", ended, self._draw)
        self._events.append(Finished(fake.id, outcome))
        self._work(fake)

    def _die(self, fake: _Fake, reason: str, charged: bool) -> None:
        if fake.alive:
            self.happened[reason] += 1
            self._end(fake)
            self._events.append(Lost(fake.id, reason, charged=charged, starting=not fake.ready))

    def _end(self, fake: _Fake) -> None:
        now = self._agenda.now
        fake.alive = False
        self._live.pop(fake.id, None)
        self.times.held += now - fake.began
        self.times.loading += 0.0 if fake.ready else now - fake.began
        self.times.lost += now - fake.since if fake.since is not None else 0.0

    def _poll(self) -> None:
        """Replicas are asked for their totals as ReplicaPool asks them."""
        ready = len(self._asked)
        self._polled += POLL_SECONDS * ready / stats_seconds(ready) if ready else 0.0
        while self._polled >= 1 and self._asked:
            self._polled -= 1
            fake = self._live.get(self._asked.popleft())
            if fake is not None:
                self._asked.append(fake.id)
                self._events.append(self._stats(fake))
        ending = self._left < 2 * len(self._live)
        idle = ending and any(fake.ready and fake.since is None for fake in self._live.values())
        self.idle_since = (self.idle_since or self._agenda.now) if idle else None
        self._agenda.at(POLL_SECONDS, self._poll)

    def _stats(self, fake: _Fake) -> Stats:
        spent = fake.busy + (self._agenda.now - fake.since if fake.since is not None else 0.0)
        tokens = int(spent / self._shard_seconds * TOKENS)
        uptime = self._agenda.now - fake.began
        return Stats(fake.id, ReplicaStats(tokens // 900, tokens, spent, uptime, 4 << 30))


def make_receipt(
    number: int, epoch: int, part: OutputFile, seconds: float, replica: str, ended: float, draw: random.Random
) -> Receipt:
    """A receipt as a replica's, with random digests, so that compression cannot remove them."""
    bits, rows = draw.getrandbits, part.rows
    path = f"{part.path}/part-{number:07d}.parquet"
    file = OutputFile(path, rows, part.bytes, f"{bits(256):064x}", f"{bits(128):032x}")
    return Receipt(
        shard=number,
        epoch=epoch,
        rows_read=rows,
        documents=rows,
        rows=rows,
        quarantined_rows=0,
        lost_objects=(),
        tokens=TOKENS + bits(16),
        padded_tokens=TOKENS + (1 << 17) + bits(16),
        truncated=bits(6),
        duplicate_ids=0,
        files=(file,),
        quarantine=None,
        stage_seconds={stage: round(seconds * share, 4) for stage, share in STAGES.items()},
        seconds=round(seconds, 4),
        replica=replica,
        source_digest=f"{bits(128):032x}",
        token_histogram=(0, 0, 4, 40, 300, 2000, 9000, rows - 11344, 0, 0, 0, 0),
        ended=round(ended, 3),
    )

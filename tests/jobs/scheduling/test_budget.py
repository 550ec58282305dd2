"""The budget: estimates by hand, and whole runs in virtual time whose spending is counted by the fake replicas alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import pytest

from benchmarks.agenda import Agenda
from jobs.scheduling.budget import MARGIN, MARGIN_OF_PREDICTION, STOP_SECONDS, Limited, Limits, Rate, Spent
from jobs.scheduling.messages import Command, Dispatch, StartReplica, StopReplica
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from tests.jobs.hand_driver import make_receipt, make_shard
from workers.records.shard import Assignment, Shard

STATS_SECONDS = 2.0
RATE = 2000.0  # tokens a second of a fake replica
USD_A_SECOND = 0.5


def shard_of(number: int, text_bytes: int) -> Shard:
    return replace(make_shard(number), text_bytes=text_bytes)


def test_a_rate_is_the_pooled_one_and_the_largest_excess() -> None:
    rate = Rate(0.2, 1.0)
    assert rate.of(1000) == pytest.approx(0.2 * 1000 * MARGIN_OF_PREDICTION)
    assert Rate(None, 1.0).of(1000) == 1000
    rate.add(1000, 250)
    rate.add(3000, 550)
    assert rate.of(2000) == pytest.approx(0.2 * 2000 + 50), "800 of 4000 bytes; the first needed 50 more than its share"
    assert rate.of(2000, shards=3) == pytest.approx(0.2 * 2000 + 150)
    assert rate.of(0, shards=0) == 0


def test_a_shard_is_granted_as_long_as_it_fits_beside_what_is_promised() -> None:
    budget = Limited(Limits(tokens=1000), Spent(tokens=400), tokens_a_byte=0.2)
    budget.ready(0, 0.0)
    need = MARGIN * MARGIN_OF_PREDICTION * 0.2 * 1000  # 262.5
    assert need == pytest.approx(262.5)
    for number, granted in ((1, True), (2, True), (3, False)):
        assert budget.grants(shard_of(number, 1000), 1.0) is granted
        if granted:
            budget.given(0, shard_of(number, 1000), 1.0)
    assert budget.refused
    budget.ended(0, 1, 150, 2.0)  # fewer than estimated: 400 + 150 + 157.5 for the other
    assert budget.spent(2.0).tokens == 550
    assert budget.grants(shard_of(3, 1800), 2.0), "283.5 of the 292.5 that are left"
    assert not budget.grants(shard_of(4, 1000), 2.0), "9 are left beside that promise"


def test_what_a_lost_attempt_embedded_is_spent() -> None:
    budget = Limited(Limits(tokens=1000), Spent(), tokens_a_byte=0.2)
    budget.ready(0, 0.0)
    budget.given(0, shard_of(1, 1000), 0.0)
    budget.report(0, 120, 5.0, 5.0)
    budget.ended(0, 1, None, 6.0)
    assert budget.spent(6.0) == Spent(120, 6.0)
    budget.given(0, shard_of(1, 1000), 6.0)
    budget.report(0, 190, 8.0, 8.0)
    budget.removed(0, 9.0)
    assert budget.spent(100.0) == Spent(190, 9.0), "a replica that is gone costs nothing more"


def test_replica_seconds_are_known_between_reports_and_the_clock_ends_the_run() -> None:
    budget = Limited(Limits(usd=50.0, usd_a_second=USD_A_SECOND), Spent(seconds=20.0))
    assert budget.exceeded_at(5.0) == math.inf, "no replica is ready"
    for replica in (0, 1):
        budget.ready(replica, 10.0)
    budget.report(1, 0, 14.0, 20.0)  # it was ready before the scheduler knew
    assert budget.spent(25.0).seconds == 20 + 15 + 19
    assert budget.exceeded_at(25.0) == 25 + (100 - 54) / 2 - STOP_SECONDS
    assert budget.told(25.0) == "27.0000 USD of cost.max_usd=50 spent"


@dataclass
class Fake:
    """A replica that knows what it has really done."""

    ready_at: float
    queue: list[Assignment] = field(default_factory=list)
    began: float | None = None
    seconds: float = 0.0  # that the present shard takes
    settled: float = 0.0


class World:
    """Fake replicas that count what they embed and how long they are up, whatever the scheduler believes."""

    def __init__(
        self, sizes: list[tuple[int, int]], budget: Limited, done: set[int], *, seed: int, replicas: int = 8, losses: int = 0
    ) -> None:
        """`sizes`: bytes and tokens of each shard; `done`: those of earlier drivers, to which this one adds."""
        self.random, self.sizes, self.done = random.Random(seed), sizes, done
        todo = [shard_of(number, size) for number, (size, _) in enumerate(sizes) if number not in done]
        self.scheduler = Scheduler(todo, Policy(slots=2, backoff_seconds=0.1), replicas, 0, budget)
        self.agenda, self.fakes, self.tokens, self.seconds = Agenda(), dict[int, Fake](), 0.0, 0.0
        for _ in range(losses):
            self.agenda.at(self.random.uniform(20, 90), self._lose)
        while not (self.scheduler.finished or self.scheduler.abort_reason):
            for command in self.scheduler.decide(self.agenda.now):
                self._execute(command)
            due = self.scheduler.next_deadline(self.agenda.now)
            if due is not None:
                self.agenda.step(until=due)
        for number in list(self.fakes):
            self._gone(number)

    def _execute(self, command: Command) -> None:
        match command:
            case StartReplica(number):
                self.agenda.at(self.random.uniform(1, 5), lambda: self._ready(number))
            case StopReplica(number):
                self._gone(number)
            case Dispatch(number, assignment):
                self.fakes[number].queue.append(assignment)
                self._begin(number)

    def _ready(self, number: int) -> None:
        self.fakes[number] = Fake(self.agenda.now)
        self.scheduler.on_ready(number, self.agenda.now)
        self.agenda.at(STATS_SECONDS, lambda: self._tell(number))

    def _tell(self, number: int) -> None:
        fake, now = self.fakes.get(number), self.agenda.now
        if fake is not None:
            self.scheduler.on_progress(number, int(self._embedded(fake)), now, now - fake.ready_at)
            self.agenda.at(STATS_SECONDS, lambda: self._tell(number))

    def _begin(self, number: int) -> None:
        fake = self.fakes[number]
        if fake.began is None and fake.queue:
            tokens = self.sizes[fake.queue[0].shard.number][1]
            fake.began, fake.seconds = self.agenda.now, tokens / RATE * self.random.uniform(0.9, 1.1)
            epoch = fake.queue[0].epoch
            self.agenda.at(fake.seconds, lambda: self._end(number, epoch))

    def _end(self, number: int, epoch: int) -> None:
        fake = self.fakes.get(number)
        if fake is None:
            return
        assignment = fake.queue.pop(0)
        assert assignment.epoch == epoch
        tokens = self.sizes[assignment.shard.number][1]
        fake.began, fake.settled = None, fake.settled + tokens
        self.done.add(assignment.shard.number)
        receipt = replace(make_receipt(assignment.shard.number, epoch), tokens=tokens)
        assert self.scheduler.on_receipt(number, receipt, self.agenda.now)
        self._begin(number)

    def _lose(self) -> None:
        if self.fakes:
            number = self.random.choice(sorted(self.fakes))
            self._gone(number)
            self.scheduler.on_lost(number, "preempted", self.agenda.now, charged=False)

    def _gone(self, number: int) -> None:
        fake = self.fakes.pop(number, None)
        if fake is not None:
            self.tokens += self._embedded(fake)
            self.seconds += self.agenda.now - fake.ready_at

    def _embedded(self, fake: Fake) -> float:
        if fake.began is None:
            return fake.settled
        share = min(1.0, (self.agenda.now - fake.began) / fake.seconds)
        return fake.settled + share * self.sizes[fake.queue[0].shard.number][1]


def corpus(seed: int, shards: int = 400) -> list[tuple[int, int]]:
    """Shards of some 40 KB; a byte is 0.18 to 0.22 tokens; each twentieth is a small rest."""
    chance = random.Random(seed)
    sizes = [chance.randint(38_000, 42_000) // (10 if number % 20 == 19 else 1) for number in range(shards)]
    return [(size, round(size * chance.uniform(0.18, 0.22))) for size in sizes]


def run(limits: Limits, seed: int, done: set[int], before: Spent, *, losses: int = 0, known: bool = True) -> World:
    """One driver; `known`: whether a prediction was made."""
    sizes = corpus(seed)
    budget = Limited(limits, before, *((0.2, 0.2 / RATE) if known else (None, None)))
    return World(sizes, budget, done, seed=seed, losses=losses)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("known", [True, False])
def test_tokens_end_within_two_hundredths_below_the_limit_and_the_run_goes_on_to_the_same_shards(
    seed: int, known: bool
) -> None:
    total = sum(tokens for _, tokens in corpus(seed))
    limit, done = total // 2, set[int]()
    first = run(Limits(tokens=limit), seed, done, Spent(), known=known)
    assert first.scheduler.abort_reason is not None
    assert f"of cost.max_tokens={limit} spent, and no further shard fits; raise that limit" in first.scheduler.abort_reason
    assert 0.98 * limit <= first.tokens <= limit
    assert first.tokens == sum(corpus(seed)[number][1] for number in done), "nothing was embedded in vain"

    raised = limit * 3 // 2
    second = run(Limits(tokens=raised), seed, done, Spent(tokens=first.tokens), known=known)
    assert 0.98 * raised <= first.tokens + second.tokens <= raised

    spent = first.tokens + second.tokens
    third = run(Limits(tokens=2 * total), seed, done, Spent(tokens=spent), known=known)
    assert third.scheduler.finished
    assert done == set(range(400))
    assert spent + third.tokens == total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("known", [True, False])
def test_dollars_end_within_two_hundredths_below_the_limit(seed: int, known: bool) -> None:
    seconds = sum(tokens for _, tokens in corpus(seed)) / RATE / 2
    limits, done = Limits(usd=seconds * USD_A_SECOND, usd_a_second=USD_A_SECOND), set[int]()
    first = run(limits, seed, done, Spent(), known=known)
    assert "no further shard fits" in (first.scheduler.abort_reason or "")
    assert 0.98 * seconds <= first.seconds <= seconds
    assert first.tokens == sum(corpus(seed)[number][1] for number in done), "nothing was given up"
    again = run(limits, seed, done, Spent(first.tokens, first.seconds), known=known)
    assert first.seconds + again.seconds <= seconds, "the same limit allows nothing more"
    rest = run(replace(limits, usd=1e9), seed, done, Spent(first.tokens, first.seconds), known=known)
    assert rest.scheduler.finished
    assert done == set(range(400))


@pytest.mark.parametrize("seed", range(4))
def test_lost_attempts_count(seed: int) -> None:
    """A replica that dies has embedded what it told last; at most STATS_SECONDS of work of each are not known."""
    total, losses = sum(tokens for _, tokens in corpus(seed)), 6
    done = set[int]()
    world = run(Limits(tokens=total // 2), seed, done, Spent(), losses=losses)
    assert world.scheduler.abort_reason is not None
    useful = sum(corpus(seed)[number][1] for number in done)
    assert world.tokens > useful, "no attempt was lost; the test shows less than it says"
    assert 0.98 * (total // 2) <= world.tokens <= total // 2 + losses * STATS_SECONDS * RATE


def test_a_wrong_estimate_is_stopped_by_the_clock() -> None:
    """Each shard takes a hundred times what was predicted: what is in flight is given up before the limit is passed."""
    sizes = [(40_000, 800_000)] * 20
    limits = Limits(usd=100 * USD_A_SECOND, usd_a_second=USD_A_SECOND)
    world = World(sizes, Limited(limits, Spent(), 0.2, 0.2 / RATE), set(), seed=0, replicas=4)
    assert "8 shards in flight are given up" in (world.scheduler.abort_reason or "")
    assert 100 - 4 * STOP_SECONDS - 1e-6 <= world.seconds <= 100


def test_replicas_without_work_are_stopped_and_none_is_started_for_nothing() -> None:
    """Room for three shards: of eight replicas five are not kept waiting at cost."""
    sizes = [(40_000, 8_000)] * 30
    limit = math.ceil(3.2 * MARGIN * MARGIN_OF_PREDICTION * 8_000)
    world = World(sizes, Limited(Limits(tokens=limit), Spent(), 0.2), set(), seed=1)
    assert world.scheduler.abort_reason is not None
    assert world.tokens <= limit
    assert world.scheduler.attempts == len(world.done) == 3 + 1, "the estimate was a quarter too high"
    assert world.seconds < 8 * 8

"""The scheduler against a virtual cluster: hundreds of fake workers, random faults, every command checked.

virtual_cluster.py checks each command as it comes (never on two live replicas, at most `slots`, suspects alone, epochs grow,
ids fresh, late messages ignored); here the outcome of whole runs is held against its independent account.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.scheduling.messages import Dispatch, StartReplica
from jobs.scheduling.policy import Policy
from jobs.scheduling.scheduler import Scheduler
from tests.jobs.hand_driver import make_receipt, make_shard
from tests.jobs.scenario import CORRUPT, HEALTHY, LOST_CAUSES, Scenario, scenarios
from tests.jobs.virtual_cluster import VirtualCluster

LENIENT = Policy(ready_seconds=60, shard_seconds=120, stall_seconds=1e7, max_uncharged=10_000)


def check_outcome(world: VirtualCluster) -> None:
    """Every shard is done or quarantined, each for what it did, or the run was given up for a reason that is true."""
    run, limit = world.scheduler, world.policy.max_attempts
    assert run.done == len(world.done)
    assert run.attempts == world.dispatched.total()
    for shard, reason in run.quarantined.items():
        charges = world.charges[shard]
        blamed_once = sum(len(who) < 2 for (number, _), who in world.blames.items() if number == shard)
        assert len(charges) + blamed_once >= limit, "quarantined before its attempts were over"
        assert len(charges) <= limit
        assert len(set(charges)) >= min(2, limit) or blamed_once, "quarantined on the word of one replica"
        if world.kind[shard] in LOST_CAUSES and not world.scenario.device_faults:
            assert world.kind[shard] in reason.replace("not finished within", "hung")
        if not world.scenario.device_faults:
            assert world.kind[shard] in LOST_CAUSES, "an innocent was quarantined"
    if run.abort_reason is not None:
        assert "failed to start" in run.abort_reason
        assert world.failed_starts_in_a_row >= world.policy.max_failed_starts
        return
    assert run.finished
    assert (run.pending, run.running) == (0, 0)
    assert len(world.done) + len(run.quarantined) == world.scenario.shards
    assert not world.done & set(run.quarantined)
    for shard, kind in enumerate(world.kind):
        assert kind not in LOST_CAUSES or shard in run.quarantined
        if kind == CORRUPT and shard in world.done:
            assert world.excluded[shard] == world.corrupt[shard]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=scenarios(), slots=st.integers(1, 3), max_attempts=st.integers(1, 4))
def test_any_run_ends_with_every_shard_accounted_for(scenario: Scenario, slots: int, max_attempts: int) -> None:
    policy = Policy(
        ready_seconds=60, shard_seconds=120, stall_seconds=1e7, max_uncharged=10_000, slots=slots, max_attempts=max_attempts
    )
    check_outcome(VirtualCluster(scenario, policy).run())


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_workers_in_a_storm(seed: int) -> None:
    world = VirtualCluster(
        Scenario(
            seed, 4000, 300, bad_shards=0.05, failed_starts=0.1, never_ready=0.05, preempted=0.3, zombies=0.5, resizes=5
        ),
        LENIENT,
    ).run()
    check_outcome(world)
    assert world.scheduler.abort_reason is None
    assert world.late_messages > 0, "the storm has no zombie in it; the test shows less than it says"
    assert any(world.suspects), "no replica died with several in flight; the test shows less than it says"


def test_a_quiet_run_uses_each_shard_once_and_keeps_everyone_busy() -> None:
    world = VirtualCluster(Scenario(shards=600, replicas=20), LENIENT).run()
    check_outcome(world)
    assert world.scheduler.attempts == 600
    assert len(world.replicas) == 20
    assert world.kind.count(HEALTHY) == 600
    ideal = 600 * 5 / 20  # shards x mean seconds / replicas
    assert world.now < 20 + 1.5 * ideal


def test_one_replica_with_everything_wrong_still_ends() -> None:
    world = VirtualCluster(Scenario(seed=5, shards=60, replicas=1, bad_shards=1.0, preempted=0.3), LENIENT).run()
    check_outcome(world)
    assert world.scheduler.finished


@pytest.mark.slow
def test_a_hundred_thousand_shards_on_300_replicas_cost_microseconds_each(capsys: pytest.CaptureFixture[str]) -> None:
    shards = [make_shard(number) for number in range(100_000)]
    run = Scheduler(shards, Policy(), replicas=300, first_epoch=0)
    began, now = time.process_time(), 0.0
    waiting: list[Dispatch] = []
    for command in run.decide(now):
        assert isinstance(command, StartReplica)
        run.on_ready(command.replica, now)
    while not run.finished:
        waiting += [command for command in run.decide(now) if isinstance(command, Dispatch)]
        now += 0.01
        first = waiting.pop(0)
        assert run.on_receipt(first.replica, make_receipt(first.assignment.shard.number, first.assignment.epoch), now)
    each = (time.process_time() - began) / len(shards)
    with capsys.disabled():
        print(f"\nscheduler: {each * 1e6:.0f} µs of CPU per shard")
    assert run.done == 100_000
    assert each < 1e-3

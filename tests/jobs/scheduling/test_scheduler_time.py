"""Deadlines, back-offs, restarts, late messages, aborts and resizes of the scheduler: each rule by one example."""

from __future__ import annotations

import pytest

from jobs.scheduling.messages import StartReplica, StopReplica
from jobs.scheduling.policy import Policy
from tests.jobs.hand_driver import Driver, make_receipt
from workers.records.shard import Blame, Failure


def test_a_replica_that_fails_everything_backs_off_and_does_not_take_all_the_work() -> None:
    driver = Driver(shards=100, replicas=1)
    driver.ready(0)
    driver.fail(0, Blame.NOBODY)
    assert len(driver.shards(0)) == 2, "one failure is no pattern"
    driver.fail(0, Blame.NOBODY)
    driver.fail(0, Blame.NOBODY)
    assert driver.shards(0) == [], "backing off, though fresh shards wait"
    assert len(driver.step(4)) == 2
    driver.receipt(0)
    driver.fail(0, Blame.NOBODY)
    assert len(driver.shards(0)) == 2, "a receipt resets its failures"


def test_late_messages_of_a_stopped_replica_are_ignored() -> None:
    driver = Driver(shards=1)
    driver.ready(0)
    task = driver.in_flight[0][0]
    driver.step(50)
    assert isinstance(driver.log[-1], StopReplica)
    assert not driver.run.on_receipt(0, make_receipt(0, task.epoch), driver.now)
    assert not driver.run.on_failure(0, Failure(0, task.epoch, Blame.SHARD, "late"), driver.now)
    driver.run.on_lost(0, "killed as told", driver.now)
    driver.run.on_ready(0, driver.now)
    assert (driver.run.done, driver.run.pending) == (0, 1)


def test_an_answer_to_an_older_assignment_is_ignored_unless_it_adopted_its_part() -> None:
    driver = Driver(shards=1)
    driver.ready(0)
    assert not driver.run.on_receipt(0, make_receipt(0, epoch=9), driver.now)
    assert not driver.run.on_failure(0, Failure(0, 9, Blame.SHARD, "old"), driver.now)
    assert driver.run.on_receipt(0, make_receipt(0, epoch=9, adopted=True), driver.now)
    assert driver.run.finished


def test_a_shard_over_time_is_charged_and_the_one_behind_it_is_not() -> None:
    driver = Driver(shards=3, max_attempts=1)
    driver.ready(0)
    driver.step(30)
    driver.receipt(0)  # shard 1 becomes the oldest now: its time starts here
    assert driver.run.next_deadline(driver.now) == 80
    assert driver.step(49.9) == []
    commands = driver.step(0.1)
    assert isinstance(commands[0], StopReplica)
    assert "run.shard_seconds" in commands[0].reason
    assert list(driver.run.quarantined) == [1]
    driver.step(2)
    driver.ready(1)
    assert driver.shards(1) == [2]


def test_a_replica_not_ready_in_time_is_stopped_and_replaced_after_a_back_off() -> None:
    driver = Driver(shards=1)
    assert driver.step(99) == []
    (stop,) = driver.step(1)
    assert isinstance(stop, StopReplica)
    assert "cluster.replica_ready_seconds" in stop.reason
    assert driver.step(1.9) == []
    assert driver.step(0.1) == [StartReplica(1)]


def test_replicas_lost_together_count_as_one_loss_and_a_receipt_resets_it() -> None:
    driver = Driver(shards=50, replicas=5, slots=1)
    driver.ready(0, 1, 2, 3, 4)
    for replica in range(4):
        driver.lose(replica, "node lost", charged=False)
    assert driver.step(1.9) == []
    assert len(driver.step(0.1)) == 4
    driver.receipt(4)
    driver.lose(4)
    assert driver.step(2) == [StartReplica(9)], "the first delay again"


def test_starts_that_failed_beside_a_ready_replica_are_not_held_against_the_run_later() -> None:
    driver = Driver(shards=50, replicas=2)
    driver.ready(0)
    for replica in range(1, 4):
        driver.lose(replica, "bad node")
        driver.step(16)
    driver.lose(0, "node lost", charged=False)
    driver.lose(4, "bad node")
    assert driver.run.abort_reason is None


def test_failed_starts_in_a_row_abort_with_the_reason_and_what_to_look_at() -> None:
    driver = Driver(shards=5, replicas=1)
    delays = []
    for replica in range(3):
        driver.lose(replica, "CUDA out of memory", during_start=True)
        waited = 0
        while driver.run.abort_reason is None and not driver.step(1):
            waited += 1
        delays.append(waited + 1)
    assert delays[:2] == [2, 4]
    assert "3 replicas in a row failed to start" in str(driver.run.abort_reason)
    assert "CUDA out of memory" in str(driver.run.abort_reason)
    assert "cluster.gpus_per_replica" in str(driver.run.abort_reason)


def test_failed_starts_do_not_abort_while_a_replica_is_ready_or_still_starting() -> None:
    driver = Driver(shards=50, replicas=6, stall_seconds=1e9, shard_seconds=1e9)
    for replica in range(5):
        driver.lose(replica, "bad node")
    assert driver.run.abort_reason is None, "the sixth still starts, and decides"
    assert driver.step(50) == [], "no more are tried until it has"
    assert StartReplica(6) in driver.ready(5)
    for replica in range(6, 30):
        driver.lose(replica, "bad node")
        driver.step(16)
    assert driver.run.abort_reason is None
    assert 30 in driver.in_flight, "a bad node costs a start now and then, not the run"
    assert driver.shards(5) == [0, 1]


def test_a_start_lost_to_preemption_is_no_failed_start() -> None:
    driver = Driver(shards=1)
    for replica in range(10):
        driver.lose(replica, "node lost", charged=False)
        driver.step(16)
    assert driver.run.abort_reason is None
    assert 10 in driver.in_flight


def test_no_progress_anywhere_aborts_and_says_what_to_look_at() -> None:
    driver = Driver(shards=1, shard_seconds=1e9)
    driver.ready(0)
    driver.step(900)
    driver.run.on_progress(0, 5, driver.now)
    driver.step(900)
    driver.run.on_progress(0, 5, driver.now)  # no increase: no progress
    assert driver.run.next_deadline(driver.now) == 1900
    driver.step(99)
    assert driver.run.abort_reason is None
    driver.step(1)
    assert "run.stall_seconds" in str(driver.run.abort_reason)
    assert "1 replicas ready" in str(driver.run.abort_reason)


def test_a_cluster_without_any_replica_stalls_too_instead_of_waiting_for_ever() -> None:
    driver = Driver(shards=1, replicas=0)
    assert driver.log == []
    driver.step(1000)
    assert "0 wanted" in str(driver.run.abort_reason)


def test_resize_starts_more_and_gives_up_only_what_is_still_starting() -> None:
    driver = Driver(shards=50, replicas=2)
    driver.ready(0)
    driver.run.resize(4)
    assert driver.step() == [StartReplica(2), StartReplica(3)]
    driver.run.resize(2)
    assert [command.replica for command in driver.step()] == [3, 2]
    driver.run.resize(0)
    assert [command.replica for command in driver.step()] == [1]
    assert driver.shards(0) == [0, 1]
    assert driver.run.abort_reason is None


def test_a_clock_that_runs_backwards_is_held() -> None:
    driver = Driver(shards=2, slots=1)
    driver.ready(0)
    driver.step(40)
    driver.step(-30)
    driver.receipt(0)
    assert driver.run.next_deadline(driver.now) == 40 + 50


def test_a_deadline_that_fell_due_since_the_last_decision_is_still_reported() -> None:
    driver = Driver(shards=1)
    driver.ready(0)
    assert driver.run.next_deadline(driver.now + 60) == 50


def test_a_policy_that_allows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Policy(slots=0)

"""Suspects run alone, and a second opinion comes from another replica: each rule by one example."""

from __future__ import annotations

from jobs.scheduling.messages import Dispatch, StartReplica, StopReplica
from tests.jobs.hand_driver import Driver, make_shard
from workers.records.shard import Blame


def test_the_only_replica_is_recycled_when_nothing_else_is_left_for_it() -> None:
    driver = Driver(shards=2, replicas=1, slots=1)
    driver.ready(0)
    driver.fail(0, Blame.SHARD)
    assert driver.shards(0) == [1], "not while other work exists"
    stop, start = driver.receipt(0)
    assert isinstance(stop, StopReplica)
    assert start == StartReplica(1)
    driver.ready(1)
    assert driver.shards(1) == [0]


def test_no_replica_is_recycled_while_a_fresh_one_is_due_anyway() -> None:
    driver = Driver(shards=2, replicas=2)
    driver.lose(1, charged=False)  # its replacement waits for the back-off
    driver.ready(0)
    for number in (0, 1):
        assert driver.fail(0, Blame.OBJECT, "truncated", make_shard(number).slices[0].uri) == []
    assert driver.step(2) == [StartReplica(2)]
    driver = Driver(shards=1)
    driver.ready(0)
    driver.run.resize(0)
    assert driver.fail(0, Blame.SHARD) == [], "nothing would be started in its place"


def test_an_idle_replica_is_not_recycled_while_another_can_have_the_shard() -> None:
    driver = Driver(shards=2, replicas=2, slots=1)
    driver.ready(0, 1)
    assert driver.fail(0, Blame.SHARD) == [], "replica 1 is busy, but not for ever"
    driver.receipt(1)
    assert driver.shards(1) == [0]


def test_suspects_that_wait_long_have_a_replica_emptied_for_them() -> None:
    driver = Driver(shards=100, replicas=2, suspect_seconds=10)
    driver.ready(0, 1)
    driver.lose(0)  # suspects 0 and 2; its replacement never gets ready
    assert driver.shards(1) == [1, 3]
    driver.receipt(1)
    assert driver.shards(1) == [3, 4], "no replica waits for emptiness at first"
    driver.step(10)
    driver.receipt(1)
    assert driver.shards(1) == [4], "now it is emptied"
    driver.receipt(1)
    assert driver.shards(1) == [0]
    driver.receipt(1)
    assert driver.shards(1) == [2]
    driver.receipt(1)
    assert driver.shards(1) == [5, 6]


def test_a_replica_is_emptied_for_suspects_only_if_it_may_run_one_and_another_when_it_dies() -> None:
    driver = Driver(shards=100, replicas=3, suspect_seconds=10, shard_seconds=1e9)
    driver.ready(0, 1, 2)
    driver.lose(0)  # suspects 0 and 3; no replacement gets ready
    driver.step(10)
    driver.receipt(1)
    driver.receipt(2)
    assert [len(driver.shards(replica)) for replica in (1, 2)] == [1, 2], "one at a time"
    driver.lose(1, charged=False)
    driver.receipt(2)
    assert len(driver.shards(2)) == 2, "the next reservation waits its time"
    driver.step(10)
    driver.receipt(2)
    driver.receipt(2)
    assert driver.shards(2) == [0]
    driver.fail(2, Blame.SHARD)
    assert driver.shards(2) == [3]
    driver.receipt(2)
    driver.step(10)
    driver.receipt(2)
    assert len(driver.shards(2)) == 2, "the suspect left waits for another replica: nothing is gained by an empty one"


def test_only_a_shard_that_was_in_flight_at_a_death_is_tried_warily() -> None:
    driver = Driver(shards=2, replicas=2, slots=1)
    driver.ready(0, 1)
    driver.fail(0, Blame.SHARD)
    driver.lose(1)
    driver.step(5)
    driver.ready(2)
    driver.receipt(0)
    driver.step(5)
    given = [command.assignment for command in driver.log if isinstance(command, Dispatch)]
    assert sorted((item.shard.number, item.suspect) for item in given) == [(0, False), (0, False), (1, False), (1, True)]

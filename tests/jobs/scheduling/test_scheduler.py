"""Who gets which shard, and which failures are charged to it: each rule by one example.

Time and replicas' lives are in test_scheduler_time.py, whole runs under random faults in test_scheduler_simulation.py.
"""

from __future__ import annotations

from jobs.scheduling.messages import StartReplica, StopReplica
from tests.jobs.hand_driver import Driver, make_shard
from workers.records.shard import Blame


def test_every_replica_gets_its_first_shard_before_any_gets_a_second_in_manifest_order() -> None:
    driver = Driver(shards=10, replicas=3)
    assert driver.log == [StartReplica(0), StartReplica(1), StartReplica(2)]
    driver.ready(0, 1, 2)
    assert [driver.shards(replica) for replica in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert (driver.run.running, driver.run.pending, driver.run.attempts) == (6, 4, 6)
    driver.receipt(1)
    assert driver.shards(1) == [4, 6]


def test_epochs_grow_with_each_dispatch_and_attempts_count_per_shard() -> None:
    driver = Driver(shards=2, replicas=2, slots=1)
    driver.ready(0, 1)
    first = driver.in_flight[0][0]
    driver.lose(0)
    assert driver.step(2) == [StartReplica(2)]
    driver.ready(2)
    again = driver.in_flight[2][0]
    assert (first.epoch, first.attempt, again.epoch, again.attempt) == (10, 1, 12, 2)


def test_no_more_replicas_are_started_than_shards_remain() -> None:
    driver = Driver(shards=2, replicas=50)
    assert driver.log == [StartReplica(0), StartReplica(1)]


def test_a_shard_is_not_fetched_ahead_that_a_starting_replica_could_have() -> None:
    driver = Driver(shards=2, replicas=2)
    driver.ready(0)
    assert driver.shards(0) == [0]
    driver.ready(1)
    assert driver.shards(1) == [1]


def test_a_run_without_shards_is_finished_at_once() -> None:
    driver = Driver(shards=0)
    assert driver.run.finished
    assert driver.log == []
    assert driver.run.next_deadline(0) is None


def test_a_death_with_several_in_flight_charges_nobody_and_makes_suspects_that_run_alone() -> None:
    driver = Driver(shards=6, replicas=1, max_attempts=1)  # a single charge would quarantine
    driver.ready(0)
    driver.lose(0)
    driver.step(2)
    driver.ready(1)
    assert driver.run.quarantined == {}
    assert driver.shards(1) == [0], "a suspect runs alone"
    driver.receipt(1)
    assert driver.shards(1) == [1], "an empty replica takes the next suspect before fresh work"
    driver.receipt(1)
    assert driver.shards(1) == [2, 3]


def test_solo_deaths_are_charged_and_quarantine_after_max_attempts() -> None:
    driver = Driver(shards=1, replicas=1)
    for replica in range(3):
        assert not driver.run.finished
        driver.step(16)
        driver.ready(replica)
        driver.lose(replica, "segmentation fault")
    assert driver.run.finished
    assert "segmentation fault" in driver.run.quarantined[0]
    assert "failed attempts: 3, on replicas 0, 1, 2" in driver.run.quarantined[0]


def test_preemption_is_neither_charged_nor_suspect_but_capped() -> None:
    driver = Driver(shards=3, replicas=1, max_attempts=1, max_uncharged=2)
    for replica in range(2):
        driver.step(16)
        driver.ready(replica)
        driver.lose(replica, "preempted", charged=False)
    driver.step(16)
    driver.ready(2)
    assert driver.shards(2) == [0, 1], "not suspects: they run side by side"
    driver.lose(2, "preempted", charged=False)
    assert driver.run.quarantined == {}
    assert "interrupted 3 times" in str(driver.run.abort_reason)
    assert "preempted" in str(driver.run.abort_reason)


def test_an_exception_is_charged_and_goes_to_another_live_replica() -> None:
    driver = Driver(shards=20, replicas=2, slots=1)
    driver.ready(0, 1)
    driver.fail(0, Blame.SHARD)
    assert driver.shards(0) == [2], "other work exists: the replica that failed does that"
    driver.receipt(1)
    assert driver.shards(1) == [0], "a retry comes ahead of fresh shards, on the other replica"
    driver.fail(1, Blame.SHARD)
    assert driver.shards(1) == [0], "two have tried: the last attempt may run anywhere"
    driver.fail(1, Blame.SHARD, "division by zero")
    assert driver.run.quarantined == {0: "division by zero (failed attempts: 3, on replicas 0, 1)"}


def test_one_attempt_suffices_when_max_attempts_is_one() -> None:
    driver = Driver(shards=1, max_attempts=1)
    driver.ready(0)
    driver.fail(0, Blame.SHARD)
    assert driver.run.finished
    assert list(driver.run.quarantined) == [0]


def test_objects_blamed_by_two_replicas_are_excluded_one_after_another_and_never_quarantine() -> None:
    driver = Driver(shards=1, objects=3, max_attempts=2)
    uris = [piece.uri for piece in make_shard(0, 3).slices]
    replica = 0
    for count, uri in enumerate(uris):
        driver.ready(replica)
        driver.fail(replica, Blame.OBJECT, "truncated", uri)  # recycles the only replica for a second opinion
        replica += 1
        driver.ready(replica)
        assert len(driver.in_flight[replica][0].exclude) == count
        driver.fail(replica, Blame.OBJECT, "truncated", uri)
        assert driver.in_flight[replica][0].exclude == tuple((bad, "truncated") for bad in uris[: count + 1])
    driver.receipt(replica)
    assert driver.run.finished
    assert (driver.run.done, driver.run.attempts) == (1, 7)


def test_an_object_that_is_not_the_shards_own_is_the_attempts_failure() -> None:
    driver = Driver(shards=1, max_attempts=1)
    driver.ready(0)
    driver.fail(0, Blame.OBJECT, "whose?", "s3://elsewhere/a.jsonl")
    assert list(driver.run.quarantined) == [0]


def test_an_object_that_one_replica_blames_counts_as_an_attempt_until_it_is_excluded() -> None:
    driver = Driver(shards=40, replicas=2, slots=1, max_attempts=2, objects=1)
    uri = make_shard(0).slices[0].uri
    driver.ready(0, 1)
    driver.fail(0, Blame.OBJECT, "truncated", uri)
    driver.receipt(1)
    driver.fail(1, Blame.SHARD, "crash")  # one object failure, one of its own, on two replicas
    assert list(driver.run.quarantined) == [0]


def test_an_output_without_room_ends_the_run_after_one_attempt() -> None:
    driver = Driver(shards=3, replicas=1)
    driver.ready(0)
    driver.fail(0, Blame.OUTPUT, "/out: no room is left there")
    assert driver.run.abort_reason == "/out: no room is left there"
    assert driver.run.quarantined == {}


def test_one_full_local_disk_of_many_ends_nothing() -> None:
    driver = Driver(shards=4, replicas=2, slots=1)
    driver.ready(0, 1)
    for _ in range(3):
        driver.fail(0, Blame.DISK, "spill folder /tmp: No space left on device")
        driver.step(16)
        driver.receipt(1)
    driver.step(16)
    assert driver.run.abort_reason is None
    assert driver.run.quarantined == {}
    while not driver.run.finished:
        driver.receipt(1)
    assert driver.run.done == 4


def test_full_local_disks_everywhere_end_the_run_after_few_attempts() -> None:
    driver = Driver(shards=50, replicas=1)
    driver.ready(0)
    for _ in range(3):
        driver.step(16)
        driver.fail(0, Blame.DISK, "spill folder /tmp: No space left on device")
    assert driver.run.abort_reason == "spill folder /tmp: No space left on device (3 times in a row, on every replica)"
    assert driver.run.quarantined == {}


def test_a_shard_that_no_local_disk_holds_ends_the_run_and_is_not_quarantined() -> None:
    """Its next attempt is made by another replica, alone."""
    driver = Driver(shards=9, replicas=3, slots=1)
    driver.ready(0, 1, 2)
    seen = []
    while driver.run.abort_reason is None:
        replica = next(at for at in driver.in_flight if 0 in driver.shards(at))
        seen.append((replica, driver.in_flight[replica][0].suspect))
        driver.fail(replica, Blame.DISK, "spill folder /tmp: No space left on device")
        for other in [at for at in driver.in_flight if at != replica and driver.in_flight[at] and driver.shards(at) != [0]]:
            driver.receipt(other)
    assert [suspect for _, suspect in seen] == [False, True, True]
    assert len({replica for replica, _ in seen}) == 3
    assert "on 3 replicas" in driver.run.abort_reason
    assert driver.run.quarantined == {}


def test_a_storage_hiccup_backs_off_and_is_not_charged() -> None:
    driver = Driver(shards=1, max_attempts=1)
    driver.ready(0)
    assert driver.fail(0, Blame.NOBODY, "503") == []
    assert driver.run.next_deadline(driver.now) == driver.now + 2
    assert driver.step(1.9) == []
    assert len(driver.step(0.1)) == 1
    driver.fail(0, Blame.NOBODY, "503")
    assert driver.step(3.9) == [], "the delay doubles"
    assert len(driver.step(0.1)) == 1


def test_storage_that_stays_away_aborts_the_run_instead_of_blaming_shards() -> None:
    driver = Driver(shards=1, max_uncharged=3)
    driver.ready(0)
    for _ in range(4):
        driver.step(16)
        driver.fail(0, Blame.NOBODY, "503 Slow Down")
    assert driver.run.quarantined == {}
    assert "503 Slow Down" in str(driver.run.abort_reason)
    assert driver.step(100) == []
    assert driver.run.next_deadline(driver.now) is None


def test_a_replica_that_blames_itself_is_stopped_and_its_shards_are_suspects() -> None:
    driver = Driver(shards=4, max_attempts=1)
    driver.ready(0)
    assert driver.fail(0, Blame.REPLICA, "CUDA error") == [StopReplica(0, "CUDA error")]
    assert driver.step(2) == [StartReplica(1)]
    driver.ready(1)
    assert driver.shards(1) == [0]
    driver.fail(1, Blame.REPLICA, "CUDA error")
    assert list(driver.run.quarantined) == [0], "alone in flight, it is charged"

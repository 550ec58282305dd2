"""The order in which waiting shards are handed out, and what a shard's history says of the next attempt."""

from __future__ import annotations

from jobs.scheduling.backlog import Backlog, History
from tests.jobs.hand_driver import make_shard


def failed(number: int, *replicas: int, suspect: bool = False) -> History:
    return History(make_shard(number), charged=len(replicas), failed_on=set(replicas), suspect=suspect)


def test_an_empty_replica_takes_suspects_then_retries_then_fresh_shards() -> None:
    backlog = Backlog([make_shard(0)])
    backlog.put(failed(1, suspect=True), now=0)
    backlog.put(failed(2), now=0)
    taken = [backlog.take(replica=5, now=0, empty=True) for _ in range(4)]
    assert [history.shard.number if history else None for history in taken] == [1, 2, 0, None]


def test_a_busy_replica_gets_no_suspect() -> None:
    backlog = Backlog([])
    backlog.put(failed(1, suspect=True), now=0)
    assert not backlog.waiting(empty=False)
    assert backlog.take(replica=5, now=0, empty=False) is None


def test_shards_that_exclude_different_replicas_take_turns() -> None:
    backlog = Backlog([])
    for history in (failed(1, 7), failed(2, 7), failed(3, 8)):
        backlog.put(history, now=0)
    taken = [backlog.take(replica=5, now=0, empty=True) for _ in range(3)]
    assert [history.shard.number if history else None for history in taken] == [1, 3, 2]


def test_a_shard_excludes_the_one_replica_that_failed_it_and_those_that_blamed_an_object() -> None:
    history = failed(1, 7)
    assert history.excluded_replicas == {7}
    uri = history.shard.slices[0].uri
    history.blame(uri, 8, "truncated", one_suffices=False)
    assert history.excluded_replicas == {7, 8}
    history.failed_on.add(9)
    assert history.excluded_replicas == {8}
    assert history.may_blame(uri)
    history.blame(uri, 9, "truncated", one_suffices=False)
    assert history.excluded_replicas == frozenset()
    assert not history.may_blame(uri), "it is excluded already"


def test_a_shard_excluded_on_all_live_replicas_needs_a_new_one() -> None:
    backlog = Backlog([])
    backlog.put(failed(1, 7), now=0)
    assert backlog.excluded_on_all({7})
    assert not backlog.excluded_on_all({7, 8})
    assert not backlog.excluded_on_all({8})


def test_what_backs_off_is_woken_when_it_is_due() -> None:
    backlog = Backlog([])
    backlog.put(failed(1), now=10, delay=5)
    assert list(backlog.deadlines()) == [15]
    backlog.wake(14.9)
    assert not backlog.waiting(empty=True)
    backlog.wake(15)
    assert backlog.waiting(empty=False)
    assert list(backlog.deadlines()) == []


def test_a_replica_is_reserved_for_suspects_only_when_none_was_served_for_long() -> None:
    backlog = Backlog([])
    for number in range(3):
        backlog.put(failed(number, suspect=True), now=0)
    assert not backlog.reserve(5, now=9, after=10)
    backlog.take(5, now=9, empty=True)
    assert not backlog.reserve(6, now=18, after=10), "one was served at 9"
    assert backlog.reserve(6, now=19, after=10)
    assert not backlog.reserve(7, now=28, after=10), "one replica was reserved at 19"

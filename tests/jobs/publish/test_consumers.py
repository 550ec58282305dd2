"""Consumers of change sets: what each has, one step at a time, and that retention keeps it."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path

import pytest

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.publish.consumers import Consumer, Consumers, held_runs
from jobs.publish.retention import beyond, retain
from jobs.state.records import list_runs
from tests.jobs.snapshot_samples import Killed, Mortal, make_run, run_id
from workers.errors import RunAborted, UsageError
from workers.storage.store import Store


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}", {})
    return Store(str(tmp_path / "out"), {})


def _has(consumer: Consumer | None) -> tuple[str | None, str | None]:
    assert consumer is not None
    return consumer.acknowledged, consumer.handed


def test_one_step_at_a_time(store: Store) -> None:
    for day in (1, 2):
        make_run(store, day)
    consumers = Consumers(store)
    assert consumers.read("pg") is None
    assert _has(consumers.hand("pg", run_id(1))) == (None, run_id(1))
    assert _has(consumers.hand("pg", run_id(1))) == (None, run_id(1)), "again: nothing is written"
    assert len(store.list("runs/consumers")) == 1
    assert _has(consumers.acknowledge("pg", run_id(1))) == (run_id(1), None)
    assert _has(consumers.acknowledge("pg", run_id(1))) == (run_id(1), None)
    consumers.hand("pg", run_id(2))
    assert _has(consumers.acknowledge("pg", run_id(1))) == (run_id(1), run_id(2)), "a late answer to the set before"
    assert held_runs(store) == {run_id(1): ["pg"], run_id(2): ["pg"]}
    consumers.acknowledge("pg", run_id(2))
    assert _has(Consumers(store).read("pg")) == (run_id(2), None)
    assert sorted(store.list("runs/consumers")) == [f"runs/consumers/pg/{n:08d}.json" for n in (3, 4)]
    assert held_runs(store) == {run_id(2): ["pg"]}
    forgotten = consumers.forget("pg")
    assert _has(forgotten) == (run_id(2), None)
    assert consumers.forget("pg") is None
    assert store.list("runs/consumers") == {}


def test_another_snapshot_than_the_given_one_is_not_acknowledged(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1)
    consumers = Consumers(store)
    consumers.hand("pg", run_id(1))
    with pytest.raises(UsageError, match=f"--ack X: consumer pg has nothing and was given {run_id(1)}; acknowledge that"):
        consumers.acknowledge("pg", "X")


def test_a_snapshot_that_is_gone_is_not_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="deleted a moment ago; run the same command again"):
        Consumers(Store(str(tmp_path), {})).hand("pg", run_id(1))


def test_of_two_processes_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path), {})
    for day in (1, 2):
        make_run(store, day)
    one, other = Consumers(store), Consumers(store)
    monkeypatch.setattr(other, "_latest", lambda name: (0, None))  # it looked before the first one wrote
    one.hand("pg", run_id(1))
    with pytest.raises(UsageError, match="another process acts for it"):
        other.hand("pg", run_id(2))
    assert _has(one.read("pg")) == (None, run_id(1))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a" * 65, "ä", "a b", "x."])
def test_names_are_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--consumer"):
        Consumers(Store(str(tmp_path), {})).hand(name, run_id(1))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    store.put("runs/consumers/pg/00000001.json", b"{}")
    with pytest.raises(RunAborted, match=r"runs/consumers/pg/00000001.json: not a consumer's state"):
        Consumers(store).read("pg")


def test_killed_while_forgetting_the_latest_state_still_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for day in (1, 2):
        make_run(store, day)
    consumers = Consumers(store)
    consumers.acknowledge("pg", run_id(1))
    consumers.hand("pg", run_id(2))
    mortal = Mortal(tmp_path, 1)
    mortal.armed = True
    with pytest.raises(Killed):
        Consumers(mortal).forget("pg")
    assert _has(consumers.read("pg")) == (run_id(1), run_id(2))


def test_retention_keeps_what_consumers_have(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for day in range(1, 7):
        make_run(store, day)
    consumers = Consumers(store)
    consumers.acknowledge("pg", run_id(1))
    consumers.acknowledge("cache", run_id(1))
    consumers.acknowledge("late", run_id(2))
    consumers.hand("late", run_id(4))
    with caplog.at_level(logging.WARNING, "reembed"), DriverLock(store) as lock:
        assert retain(store, lock, 1, StopFlag()) == [run_id(3), run_id(5)]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"snapshot {run_id(1)} stays beyond output.keep_snapshots: consumer cache, pg has it",
        f"snapshot {run_id(2)} stays beyond output.keep_snapshots: consumer late has it",
        f"snapshot {run_id(4)} stays beyond output.keep_snapshots: consumer late has it",
    ]
    assert list_runs(store) == [run_id(day) for day in (1, 2, 4, 6)]
    consumers.forget("pg")
    consumers.acknowledge("late", run_id(4))
    with DriverLock(store) as lock:
        assert retain(store, lock, 1, StopFlag()) == [run_id(2)]
    consumers.forget("cache")
    with DriverLock(store) as lock:
        assert retain(store, lock, 1, StopFlag()) == [run_id(1)]


def test_taken_while_retention_was_choosing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jobs.publish.retention as retention

    store = Store(str(tmp_path), {})
    for day in (1, 2):
        make_run(store, day)
    chosen = retention._superfluous(store, 1)
    assert chosen == [run_id(1)]
    monkeypatch.setattr(retention, "_superfluous", lambda store, keep: chosen)
    Consumers(store).acknowledge("pg", run_id(1))
    with DriverLock(store) as lock:
        assert retain(store, lock, 1, StopFlag()) == []


def test_a_damaged_state_deletes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path), {})
    for day in (1, 2):
        make_run(store, day)
    store.put("runs/consumers/pg/00000001.json", json.dumps({"name": "pg", "what": 1}).encode())
    with caplog.at_level(logging.WARNING, "reembed"), DriverLock(store) as lock:
        assert retain(store, lock, 1, StopFlag()) == []
    assert "not a consumer's state" in caplog.text


def test_what_a_consumer_has_does_not_keep_refused_runs() -> None:
    begun = ["1", "2", "3", "4"]
    assert beyond(begun, ["1", "3", "4"], (), "4", 1) == ["1", "2", "3"]
    assert beyond(begun, ["1", "3", "4"], (), "4", 1, held=["1"]) == ["2", "3"]

"""Old snapshots go after a new one is published: never the current one, never what can still be resumed, however killed."""

from __future__ import annotations

import logging
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.publish.retention import beyond, retain
from jobs.state.current import read_current
from jobs.state.records import list_runs, run_folders
from tests.jobs.snapshot_samples import Killed, Mortal, current, everything, make_run, read_rows, run_id
from workers.errors import TransientError
from workers.storage.store import Store
from workers.table.paths import CURRENT


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}", {})
    return Store(str(tmp_path / "out"), {})


def _retain(store: Store, keep: int, stop: StopFlag | None = None) -> list[str]:
    with DriverLock(store) as lock:
        return retain(store, lock, keep, stop or StopFlag())


def _history(store: Store, day: int) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in store.list(f"runs/{run_id(day)}"))


def test_older_snapshots_go_and_their_summaries_stay(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for day in range(1, 5):
        make_run(store, day)
    with caplog.at_level(logging.INFO, "reembed"):
        assert _retain(store, 2) == [run_id(1), run_id(2)]
    (line,) = [record.getMessage() for record in caplog.records if "deleted" in record.getMessage()]
    assert line == f"output.keep_snapshots=2: deleted {run_id(1)}, {run_id(2)}"
    assert list_runs(store) == [run_id(3), run_id(4)]
    assert run_folders(store, "data") == [run_id(3), run_id(4)], "no empty folder stays"
    assert _history(store, 1) == _history(store, 2) == ["report.html", "summary.json"]
    assert read_rows(store)[0] == run_id(4)
    before = everything(store)
    assert _retain(store, 2) == []
    assert everything(store) == before


def test_the_latest_ones_are_those_that_readers_had_last(store: Store) -> None:
    """Taken back to the first and published anew: what readers had a moment ago stays, whatever its id."""
    from jobs.commands.rollback import roll_back

    for day in (1, 2, 3):
        make_run(store, day)
    roll_back(store.uri, run_id(1))
    make_run(store, 4)
    assert [item["run_id"] for item in current(store)["history"]] == [run_id(2), run_id(3), run_id(1)]
    assert _retain(store, 2) == [run_id(2), run_id(3)]
    assert list_runs(store) == [run_id(1), run_id(4)]
    make_run(store, 5)
    told = current(store)
    assert [item["run_id"] for item in told["history"]] == [run_id(1), run_id(4)]
    assert told["taken_back"] == [], "of runs that are deleted nothing is remembered"


def test_unpublished_runs_go_once_they_are_older_than_all_that_is_kept(store: Store) -> None:
    make_run(store, 1, state="refused", reasons=["why"])
    make_run(store, 2, state="running", done=1)
    make_run(store, 3)
    make_run(store, 4, state="refused", reasons=["why"])
    make_run(store, 5, state="running", done=1)
    make_run(store, 6)
    make_run(store, 7, state="running", done=1)
    assert _retain(store, 2) == [run_id(1), run_id(2)]
    assert _retain(store, 1) == [run_id(3), run_id(4), run_id(5)]
    assert list_runs(store) == [run_id(6), run_id(7)]


def test_nothing_is_deleted_where_nothing_is_published(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    make_run(store, 1, state="refused")
    assert _retain(store, 1) == []
    make_run(store, 2)
    store.delete(CURRENT)
    before = everything(store)
    assert _retain(store, 1) == []
    assert everything(store) == before


def test_a_lost_current_does_not_cost_the_snapshots(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for day in (1, 2, 3):
        make_run(store, day)
    store.delete(CURRENT)
    make_run(store, 4)
    assert _retain(store, 3) == [run_id(1)]


def test_what_a_killed_driver_planned_and_never_began(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    store.put(f"runs/{run_id(1)}/manifest.parquet", b"planned")
    store.put(f"runs/{run_id(9)}/manifest.parquet", b"being planned, for all we know")
    store.put(f"data/{run_id(9)}/part-0000000.parquet", b"x")
    store.put(f"data/{run_id(2)}/part-0000000.parquet", b"x")
    store.put("data/mine/notes.txt", b"not ours")
    make_run(store, 5)
    assert _retain(store, 3) == [run_id(1), run_id(2)]
    assert run_folders(store, "data") == [run_id(5), run_id(9)]
    assert store.exists("data/mine/notes.txt")
    assert store.exists(f"runs/{run_id(9)}/manifest.parquet")


def _four(folder: Path) -> Path:
    store = Store(str(folder), {})
    for day in range(1, 5):
        make_run(store, day, state="refused" if day == 1 else "complete")
    return folder


def _changes(folder: Path) -> int:
    mortal = Mortal(folder)
    with DriverLock(Store(str(folder), {})) as lock:
        mortal.armed = True
        assert retain(mortal, lock, 1, StopFlag()) == [run_id(1), run_id(2), run_id(3)]
    return mortal.changes


@pytest.mark.slow
def test_killed_at_every_delete_the_next_one_finishes(tmp_path: Path) -> None:
    filled = _four(tmp_path / "filled")
    total = _changes(shutil.copytree(filled, tmp_path / "undisturbed"))
    expected = everything(Store(str(tmp_path / "undisturbed"), {}))
    assert total > 20
    for survive in range(total):
        folder = shutil.copytree(filled, tmp_path / str(survive))
        mortal = Mortal(folder, survive, after=survive % 2 == 0)
        store = Store(str(folder), {})
        with DriverLock(store) as lock:
            mortal.armed = True
            with pytest.raises(Killed):
                retain(mortal, lock, 1, StopFlag())
        assert read_rows(store)[0] == run_id(4)
        assert len(read_rows(store)[2]) == 20
        for begun in list_runs(store):
            assert len(store.list(f"data/{begun}")) == 2, "what has a run.json is whole"
        _retain(store, 1)
        assert everything(store).keys() == expected.keys(), survive
        assert run_folders(store, "data") == [run_id(4)]


def test_a_failure_is_a_warning_and_the_others_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Store):
        def delete_many(self, paths: object) -> None:
            if any(run_id(1) in path for path in paths):  # type: ignore[attr-defined]
                raise TransientError("no answer")
            super().delete_many(paths)  # type: ignore[arg-type]

    store = Stubborn(str(tmp_path), {})
    for day in (1, 2, 3):
        make_run(store, day)
    assert _retain(store, 1) == [run_id(2)]
    assert f"old run {run_id(1)} was not deleted" in caplog.text
    assert _retain(Store(str(tmp_path), {}), 1) == [run_id(1)]


def test_a_signal_ends_it_between_two_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, stop = Store(str(tmp_path), {}), StopFlag()
    for day in (1, 2, 3):
        make_run(store, day)
    stop.number = signal.SIGTERM
    before = everything(store)
    assert _retain(store, 1, stop) == []
    assert everything(store) == before
    assert "the next run goes on with it" in caplog.text


def test_a_driver_that_lost_the_lock_deletes_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for day in (1, 2, 3):
        make_run(store, day)
    before = everything(store)
    with DriverLock(store) as lock:
        mine = f"runs/lock/{lock.generation:08d}.json"
        store.put(f"runs/lock/{lock.generation + 1:08d}.json", store.read(mine))
        assert retain(store, lock, 1, StopFlag()) == []
    assert everything(store) == before
    assert "no longer holds" in caplog.text


def test_more_files_than_one_request_takes(store: Store) -> None:
    make_run(store, 1)
    for number in range(30):
        store.put(f"runs/{run_id(1)}/staged/ü {number}.json", b"x")
    make_run(store, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.publish.retention.DELETE_BATCH", 7)
        assert _retain(store, 1) == [run_id(1)]
    assert _history(store, 1) == ["report.html", "summary.json"]
    assert read_current(store) is not None


def test_a_pure_decision() -> None:
    assert beyond(["a", "b", "c"], ["a", "b", "c"], [], "c", 5) == []
    assert beyond(["a", "b", "c"], ["c", "b", "a"], [], "a", 1) == ["b", "c"], "an older run was published again"
    assert beyond(["a", "b", "c"], ["c", "a"], [], "a", 1) == ["c"], "b may still be resumed"
    assert beyond(["c"], ["c"], ["a", "b", "d"], "c", 1) == ["a", "b"]

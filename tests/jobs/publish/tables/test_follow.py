"""Table and CURRENT.json agree after the next start, and what somebody else wrote is refused, never overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs.commands.rollback import roll_back
from jobs.driver.lock import DriverLock
from jobs.publish.publish import Snapshot, publish
from jobs.publish.tables.delta_log import append, read_log
from jobs.publish.tables.follow import FollowingTable, require_table, settle, tidy
from jobs.publish.tables.table import TableChanged
from jobs.state.stored_run import StoredRun
from tests.jobs.publish.tables.folders_and_tables import current, delta_rows, folder_rows, tables_agree
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import OutputTable
from workers.errors import UsageError
from workers.storage.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
DELTA = OutputTable.DELTA
VECTORS = np.random.default_rng(5).standard_normal((20, 8)).astype(np.float32)


def register(output: Path) -> None:
    store = Store(str(output), {})
    with DriverLock(store) as lock:
        settle(store, lock, DELTA, begin=True)


def two_nights(output: Path) -> tuple[str, str]:
    """The table has the first; the second is whole, and published without it."""
    first = publish_vectors(output, VECTORS)
    register(output)
    shutil.copy(output / "CURRENT.json", output / "first.json")
    second = publish_next(output, {1: -VECTORS[5:10]})
    shutil.move(output / "first.json", output / "CURRENT.json")
    return first, second


def publish_with_table(output: Path, run_id: str) -> None:
    store = Store(str(output), {})
    run = StoredRun.open(store, run_id)
    assert run is not None
    with DriverLock(store) as lock:
        assert publish(Snapshot(store, run_id, run.files, {}), lock, table=FollowingTable(run, DELTA)) is None


def test_a_publication_and_its_table(tmp_path: Path) -> None:
    _, second = two_nights(tmp_path)
    publish_with_table(tmp_path, second)
    assert (current(tmp_path)["run_id"], current(tmp_path)["table"]) == (second, "delta")
    assert tables_agree(tmp_path)
    assert delta_rows(tmp_path) == folder_rows(tmp_path)
    assert require_table(Store(str(tmp_path), {}), DELTA)


def test_rollback_takes_the_table_along_and_back(tmp_path: Path) -> None:
    first, second = two_nights(tmp_path)
    publish_with_table(tmp_path, second)
    for run in (first, second):
        roll_back(str(tmp_path), run)
        assert (current(tmp_path)["run_id"], current(tmp_path)["table"]) == (run, "delta")
        assert tables_agree(tmp_path)
    assert DeltaTable(tmp_path / "data").version() == 3


def test_a_rollback_that_was_killed_before_the_table_is_finished_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_nights(tmp_path)
    publish_with_table(tmp_path, second)
    with monkeypatch.context() as patch:
        patch.setattr(FollowingTable, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            roll_back(str(tmp_path), first)
    assert current(tmp_path)["run_id"] == first
    assert not tables_agree(tmp_path)
    roll_back(str(tmp_path), first)
    assert tables_agree(tmp_path)


def _appended(output: Path) -> None:
    table = DeltaTable(output / "data")
    rows = table.to_pyarrow_table().slice(0, 1)
    write_deltalake(output / "data", rows, mode="append")


def _deleted_some(output: Path) -> None:
    DeltaTable(output / "data").delete("id = '3'")


def _emptied(output: Path) -> None:
    DeltaTable(output / "data").delete()


def _one_file_less(output: Path) -> None:
    store = Store(str(output), {})
    state = read_log(store)
    assert state is not None
    path = next(iter(state.adds))
    assert append(store, state.version + 1, [{"remove": {"path": path, "dataChange": True, "deletionTimestamp": 1}}])


def _with_deletion_vectors(output: Path) -> None:
    store = Store(str(output), {})
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    assert append(store, 1, [{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}])


@pytest.mark.parametrize("change", [_appended, _deleted_some, _emptied, _one_file_less, _with_deletion_vectors])
def test_a_table_that_somebody_changed_is_refused_and_nothing_is_published(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    first, second = two_nights(tmp_path)
    change(tmp_path)
    store = Store(str(tmp_path), {})
    log = store.list("data/_delta_log")
    with pytest.raises(TableChanged, match=r"by another program.*delete data/_delta_log"):
        require_table(store, DELTA)
    with pytest.raises(TableChanged, match="by another program"):
        publish_with_table(tmp_path, second)
    assert current(tmp_path)["run_id"] == first
    assert store.list("data/_delta_log") == log
    shutil.rmtree(tmp_path / "data/_delta_log")
    publish_with_table(tmp_path, second)
    assert tables_agree(tmp_path)


def test_somebody_commits_between_the_look_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the version is taken: the log is read again, and the other's rows are found."""
    _, second = two_nights(tmp_path)
    put, once = Store.put_if_absent, [True]

    def raced(self: Store, path: str, data: bytes) -> bool:
        if path.startswith("data/_delta_log") and once.pop() if once else False:
            _appended(tmp_path)
        return put(self, path, data)

    monkeypatch.setattr(Store, "put_if_absent", raced)
    with pytest.raises(TableChanged, match="by another program"):
        publish_with_table(tmp_path, second)
    assert DeltaTable(tmp_path / "data").version() == 1
    assert len(delta_rows(tmp_path)) == 21


def test_a_table_that_the_settings_do_not_want_any_more(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS)
    store = Store(str(tmp_path), {})
    assert require_table(store, None)
    assert not require_table(store, DELTA)
    register(tmp_path)
    assert require_table(store, DELTA)
    with pytest.raises(UsageError, match=r"output.table is not set.*set output.table: delta, or delete data/_delta_log"):
        require_table(store, None)
    shutil.rmtree(tmp_path / "data/_delta_log")
    assert require_table(store, None)


def test_versions_whose_parts_are_gone_are_forgotten(tmp_path: Path) -> None:
    first, second = two_nights(tmp_path)
    publish_with_table(tmp_path, second)
    store = Store(str(tmp_path), {})
    with DriverLock(store) as lock:
        tidy(store, lock, DELTA)
        assert len(delta_rows(tmp_path, 0)) == 20, "its run is kept"
        shutil.rmtree(tmp_path / f"runs/{first}")
        shutil.rmtree(tmp_path / f"data/{first}")
        tidy(store, lock, DELTA)
    names = sorted(path.name for path in (tmp_path / "data/_delta_log").iterdir())
    assert names == [f"{1:020d}.checkpoint.parquet", f"{1:020d}.json", "_last_checkpoint"]
    assert delta_rows(tmp_path) == folder_rows(tmp_path)
    with pytest.raises(Exception, match="version"):
        DeltaTable(tmp_path / "data", version=0)
    assert require_table(store, DELTA)


def test_a_partition_value_that_delta_cannot_hold_is_refused_before_the_flip(tmp_path: Path) -> None:
    keep = {"lang": pa.array(["", "de"] * 10)}
    publish_vectors(tmp_path, VECTORS, keep=keep, partition_by=["lang"])
    before = (tmp_path / "CURRENT.json").read_bytes()
    with pytest.raises(UsageError, match="takes an empty partition value for null, and lang is ''"):
        register(tmp_path)
    assert (tmp_path / "CURRENT.json").read_bytes() == before
    assert not (tmp_path / "data/_delta_log").exists()

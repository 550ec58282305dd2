"""Table and CURRENT.json agree after the next start, and what somebody else wrote is refused, never overwritten."""

from __future__ import annotations

import json
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
from jobs.publish.tables.follow import FollowingTable, require_table, tidy
from jobs.publish.tables.table import TableChanged
from jobs.state.stored_run import StoredRun
from tests.jobs.publish.tables.folders_and_tables import current, folder_rows, register, table_rows, tables_agree
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import OutputTable
from workers.errors import UsageError
from workers.storage.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
DELTA, ICEBERG = OutputTable.DELTA, OutputTable.ICEBERG
FOLDERS = {DELTA: "data/_delta_log", ICEBERG: "data/metadata"}
VECTORS = np.random.default_rng(5).standard_normal((20, 8)).astype(np.float32)
both = pytest.mark.parametrize("kind", list(OutputTable))


def two_nights(output: Path, kind: OutputTable) -> tuple[str, str]:
    """The table has the first; the second is whole, and published without it."""
    first = publish_vectors(output, VECTORS)
    register(output, kind)
    shutil.copy(output / "CURRENT.json", output / "first.json")
    second = publish_next(output, {1: -VECTORS[5:10]})
    shutil.move(output / "first.json", output / "CURRENT.json")
    return first, second


def publish_with_table(output: Path, run_id: str, kind: OutputTable, store: Store | None = None) -> None:
    store = store or Store(str(output), {})
    run = StoredRun.open(store, run_id)
    assert run is not None
    with DriverLock(Store(str(output), {})) as lock:
        assert publish(Snapshot(store, run_id, run.files, {}), lock, table=FollowingTable(run, kind)) is None


@both
def test_a_publication_and_its_table(tmp_path: Path, kind: OutputTable) -> None:
    _, second = two_nights(tmp_path, kind)
    publish_with_table(tmp_path, second, kind)
    assert (current(tmp_path)["run_id"], current(tmp_path)["table"]) == (second, kind.value)
    assert tables_agree(tmp_path, kind)
    assert table_rows(tmp_path, kind) == folder_rows(tmp_path)
    assert require_table(Store(str(tmp_path), {}), kind)


@both
def test_rollback_takes_the_table_along_and_back(tmp_path: Path, kind: OutputTable) -> None:
    first, second = two_nights(tmp_path, kind)
    publish_with_table(tmp_path, second, kind)
    for run in (first, second):
        roll_back(str(tmp_path), run)
        assert (current(tmp_path)["run_id"], current(tmp_path)["table"]) == (run, kind.value)
        assert tables_agree(tmp_path, kind)
        assert table_rows(tmp_path, kind) == folder_rows(tmp_path)


def _appended(output: Path) -> None:
    rows = DeltaTable(output / "data").to_pyarrow_table().slice(0, 1)
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


def _iceberg_of_another_run(output: Path) -> None:
    """A version by a writer of Hadoop tables, whose snapshot has no files."""
    metadata = json.loads((output / "data/metadata/v1.metadata.json").read_text())
    metadata |= {"current-snapshot-id": -1, "snapshots": [], "refs": {}}
    (output / "data/metadata/v2.metadata.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (DELTA, _appended),
        (DELTA, _deleted_some),
        (DELTA, _emptied),
        (DELTA, _one_file_less),
        (DELTA, _with_deletion_vectors),
        (ICEBERG, _iceberg_of_another_run),
    ],
)
def test_a_table_that_somebody_changed_is_refused_and_nothing_is_published(
    tmp_path: Path, kind: OutputTable, change: Callable[[Path], None]
) -> None:
    first, second = two_nights(tmp_path, kind)
    change(tmp_path)
    store = Store(str(tmp_path), {})
    before = store.list("data")
    with pytest.raises(TableChanged, match=rf"by another program.*delete {FOLDERS[kind]}"):
        require_table(store, kind)
    with pytest.raises(TableChanged, match="by another program"):
        publish_with_table(tmp_path, second, kind)
    assert current(tmp_path)["run_id"] == first
    assert store.list("data") == before
    shutil.rmtree(tmp_path / FOLDERS[kind])
    publish_with_table(tmp_path, second, kind)
    assert tables_agree(tmp_path, kind)


def test_somebody_commits_between_the_look_and_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the version is taken: the log is read again, and the other's rows are found."""
    _, second = two_nights(tmp_path, DELTA)
    put, once = Store.put_if_absent, [True]

    def raced(self: Store, path: str, data: bytes) -> bool:
        if path.startswith("data/_delta_log") and once:
            once.clear()
            _appended(tmp_path)
        return put(self, path, data)

    monkeypatch.setattr(Store, "put_if_absent", raced)
    with pytest.raises(TableChanged, match="by another program"):
        publish_with_table(tmp_path, second, DELTA)
    assert DeltaTable(tmp_path / "data").version() == 1
    assert len(table_rows(tmp_path, DELTA)) == 21


@both
def test_a_table_that_the_settings_do_not_want_any_more(tmp_path: Path, kind: OutputTable) -> None:
    publish_vectors(tmp_path, VECTORS)
    store = Store(str(tmp_path), {})
    assert require_table(store, None)
    assert not require_table(store, kind)
    register(tmp_path, kind)
    assert require_table(store, kind)
    with pytest.raises(UsageError, match=f"output.table is not set.*set output.table: {kind}, or delete {FOLDERS[kind]}"):
        require_table(store, None)
    other = ICEBERG if kind is DELTA else DELTA
    with pytest.raises(UsageError, match=f"output.table is {other}, and .* is a {kind} table"):
        require_table(store, other)
    shutil.rmtree(tmp_path / FOLDERS[kind])
    assert require_table(store, None)


@both
def test_versions_whose_parts_are_gone_are_forgotten(tmp_path: Path, kind: OutputTable) -> None:
    first, second = two_nights(tmp_path, kind)
    publish_with_table(tmp_path, second, kind)
    store = Store(str(tmp_path), {})
    before = store.list(FOLDERS[kind])
    with DriverLock(store) as lock:
        tidy(store, lock, kind)
        assert store.list(FOLDERS[kind]) == before, "both runs are kept"
        shutil.rmtree(tmp_path / f"runs/{first}")
        shutil.rmtree(tmp_path / f"data/{first}")
        tidy(store, lock, kind)
    names = sorted(path.name for path in (tmp_path / FOLDERS[kind]).iterdir())
    if kind is DELTA:
        assert names == [f"{1:020d}.checkpoint.parquet", f"{1:020d}.json", "_last_checkpoint"]
        with pytest.raises(Exception, match=r"version|log segment"):
            DeltaTable(tmp_path / "data", version=0)
    else:
        assert [name for name in names if first in name] == []
        newest = json.loads((tmp_path / "data/metadata/v3.metadata.json").read_text())
        assert [each["summary"]["reembed.run_id"] for each in newest["snapshots"]] == [second]
    assert tables_agree(tmp_path, kind)
    assert table_rows(tmp_path, kind) == folder_rows(tmp_path)
    assert require_table(store, kind)


def test_a_partition_value_that_delta_cannot_hold_is_refused_before_the_flip(tmp_path: Path) -> None:
    keep = {"lang": pa.array(["", "de"] * 10)}
    publish_vectors(tmp_path, VECTORS, keep=keep, partition_by=["lang"])
    before = (tmp_path / "CURRENT.json").read_bytes()
    with pytest.raises(UsageError, match="takes an empty partition value for null, and lang is ''"):
        register(tmp_path, DELTA)
    assert (tmp_path / "CURRENT.json").read_bytes() == before
    assert not (tmp_path / "data/_delta_log").exists()

"""deltalake and Polars read the table as pyarrow reads the folder: the same files, every value."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs.driver.lock import DriverLock
from jobs.publish.tables.follow import settle
from tests.jobs.publish.tables.folders_and_tables import delta_rows, folder_rows, polars_rows, tables_agree
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import OutputTable, VectorType
from workers.storage.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
COUNT = 40
VECTORS = np.random.default_rng(5).standard_normal((COUNT, 8)).astype(np.float32)
SECTIONS = ["net", "text/plain", "a b%2F", None, "ü=", "x" * 230, "__HIVE_DEFAULT_PARTITION__", "100%"]
KEEP = {
    "section": pa.array([SECTIONS[at % len(SECTIONS)] for at in range(COUNT)], pa.string()),
    "number": pa.array([None if at % 7 == 0 else at for at in range(COUNT)], pa.int64()),
    "tags": pa.array([["a", None], [], None, ["b"]] * (COUNT // 4), pa.list_(pa.string())),
}


def register(output: Path) -> None:
    store = Store(str(output), {})
    with DriverLock(store) as lock:
        settle(store, lock, OutputTable.DELTA, begin=True)


def test_partitions_of_any_text(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep=KEEP, partition_by=["section"])
    register(tmp_path)
    assert tables_agree(tmp_path)
    table = delta_rows(tmp_path)
    assert [row["section"] for row in sorted(table, key=lambda row: int(row["id"]))] == KEEP["section"].to_pylist()
    folder = folder_rows(tmp_path)
    plain = [{name: value for name, value in row.items() if name != "section"} for row in table]
    assert plain == [{name: value for name, value in row.items() if name != "section"} for row in folder]
    assert DeltaTable(tmp_path / "data").metadata().partition_columns == ["section"]
    assert polars_rows(tmp_path) == table


@pytest.mark.parametrize("vector", [VectorType.FLOAT32, VectorType.INT8])
def test_nights_replace_all_files_and_old_versions_stay_readable(tmp_path: Path, vector: VectorType) -> None:
    keep = {name: KEEP[name] for name in ("number", "tags")}
    publish_vectors(tmp_path, VECTORS, keep=keep, vector=vector)
    register(tmp_path)
    first = folder_rows(tmp_path)
    assert delta_rows(tmp_path) == first
    assert polars_rows(tmp_path) == first
    publish_next(tmp_path, {1: VECTORS[:10] * -1})
    register(tmp_path)
    second = folder_rows(tmp_path)
    assert second != first
    assert delta_rows(tmp_path) == second
    assert polars_rows(tmp_path) == second
    assert delta_rows(tmp_path, 0) == first
    table = DeltaTable(tmp_path / "data")
    assert table.version() == 1
    assert [entry["operation"] for entry in table.history()] == ["WRITE", "WRITE"]
    register(tmp_path)
    assert DeltaTable(tmp_path / "data").version() == 1, "nothing to do"


def test_columns_and_partitions_change_with_a_commit(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep={"number": KEEP["number"]})
    register(tmp_path)
    publish_vectors(
        tmp_path, VECTORS, keep={"section": KEEP["section"], "at": pa.array([1] * COUNT, pa.timestamp("us"))},
        partition_by=["section"],
    )  # fmt: skip
    register(tmp_path)
    assert tables_agree(tmp_path)
    assert len(delta_rows(tmp_path)) == COUNT
    table = DeltaTable(tmp_path / "data")
    assert (table.metadata().partition_columns, table.protocol().reader_features) == (["section"], ["timestampNtz"])
    assert len(delta_rows(tmp_path, 0)) == COUNT


def test_a_checkpoint_alone_tells_the_same(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep=KEEP, partition_by=["section"])
    register(tmp_path)
    want = delta_rows(tmp_path)
    log = tmp_path / "data/_delta_log"
    assert json.loads((log / "_last_checkpoint").read_text())["version"] == 0
    (log / f"{0:020d}.json").unlink()
    assert delta_rows(tmp_path) == want
    register(tmp_path)
    assert DeltaTable(tmp_path / "data").version() == 0, "our own reader takes it for the same"


def test_statistics_are_of_the_values(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep={"number": KEEP["number"]}, shards=2)
    register(tmp_path)
    actions = pa.table(DeltaTable(tmp_path / "data").get_add_actions(flatten=True)).sort_by("path")
    assert actions.column("num_records").to_pylist() == [20, 20]
    assert actions.column("min.number").to_pylist() == [1, 20]
    assert actions.column("max.number").to_pylist() == [19, 39]
    assert actions.column("null_count.number").to_pylist() == [3, 3]
    assert actions.column("min.id").to_pylist() == ["0", "20"]
    assert actions.column("max.id").to_pylist() == ["9", "39"]

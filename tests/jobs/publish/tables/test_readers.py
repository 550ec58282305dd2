"""deltalake, pyiceberg and Polars read the table as pyarrow reads the folder: the same files, every value."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

from tests.jobs.publish.tables.folders_and_tables import (
    delta_rows,
    folder_rows,
    iceberg_rows,
    polars_rows,
    register,
    table_rows,
    tables_agree,
)  # fmt: skip
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import OutputTable, VectorType
from workers.storage.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
DELTA, ICEBERG = OutputTable.DELTA, OutputTable.ICEBERG
COUNT = 40
VECTORS = np.random.default_rng(5).standard_normal((COUNT, 8)).astype(np.float32)
SECTIONS = ["net", "text/plain", "a b%2F", None, "ü=", "x" * 230, "__HIVE_DEFAULT_PARTITION__", "100%"]
KEEP = {
    "section": pa.array([SECTIONS[at % len(SECTIONS)] for at in range(COUNT)], pa.string()),
    "number": pa.array([None if at % 7 == 0 else at for at in range(COUNT)], pa.int64()),
    "tags": pa.array([["a", None], [], None, ["b"]] * (COUNT // 4), pa.list_(pa.string())),
}


def _without(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize("kind", list(OutputTable))
def test_partitions_of_any_text(tmp_path: Path, kind: OutputTable) -> None:
    """Values are the whole ones: a folder's name may be shortened, and readers of folders get that."""
    publish_vectors(tmp_path, VECTORS, keep=KEEP, partition_by=["section"])
    register(tmp_path, kind)
    assert tables_agree(tmp_path, kind)
    table = table_rows(tmp_path, kind)
    assert [row["section"] for row in sorted(table, key=lambda row: int(row["id"]))] == KEEP["section"].to_pylist()
    assert _without(table, "section") == _without(folder_rows(tmp_path), "section")
    assert polars_rows(tmp_path, kind) == table


@pytest.mark.parametrize("kind", list(OutputTable))
@pytest.mark.parametrize("vector", [VectorType.FLOAT32, VectorType.INT8])
def test_nights_replace_all_files_and_old_versions_stay_readable(
    tmp_path: Path, vector: VectorType, kind: OutputTable
) -> None:
    keep = {name: KEEP[name] for name in ("number", "tags")}
    publish_vectors(tmp_path, VECTORS, keep=keep, vector=vector)
    register(tmp_path, kind)
    first = folder_rows(tmp_path)
    assert table_rows(tmp_path, kind) == first
    assert polars_rows(tmp_path, kind) == first
    publish_next(tmp_path, {1: VECTORS[:10] * -1})
    register(tmp_path, kind)
    second = folder_rows(tmp_path)
    assert second != first
    assert table_rows(tmp_path, kind) == second
    assert polars_rows(tmp_path, kind) == second
    assert (delta_rows(tmp_path, 0) if kind is DELTA else iceberg_rows(tmp_path, 0)) == first
    before = Store(str(tmp_path), {}).list("data")
    register(tmp_path, kind)
    assert Store(str(tmp_path), {}).list("data") == before, "nothing to do"


@pytest.mark.parametrize("kind", list(OutputTable))
def test_columns_and_partitions_change_with_a_commit(tmp_path: Path, kind: OutputTable) -> None:
    publish_vectors(tmp_path, VECTORS, keep={"number": KEEP["number"]})
    register(tmp_path, kind)
    publish_vectors(
        tmp_path, VECTORS, keep={"section": KEEP["section"], "at": pa.array([1] * COUNT, pa.timestamp("us"))},
        partition_by=["section"],
    )  # fmt: skip
    register(tmp_path, kind)
    assert tables_agree(tmp_path, kind)
    rows = table_rows(tmp_path, kind)
    assert _without(rows, "section") == _without(folder_rows(tmp_path), "section")
    if kind is DELTA:
        table = DeltaTable(tmp_path / "data")
        assert (table.metadata().partition_columns, table.protocol().reader_features) == (["section"], ["timestampNtz"])
        assert len(delta_rows(tmp_path, 0)) == COUNT


def test_typed_partitions_of_iceberg(tmp_path: Path) -> None:
    days = pa.array(range(COUNT), pa.int32()).cast(pa.date32())
    keep = {
        "day": days.take(pa.array([at % 3 for at in range(COUNT)])),
        "flag": pa.array([at % 2 == 0 for at in range(COUNT)]),
        "empty": pa.array([""] * COUNT),
        "price": pa.array([Decimal("1.50"), Decimal("-2.00")] * (COUNT // 2), pa.decimal128(9, 2)),
    }
    publish_vectors(tmp_path, VECTORS, keep=keep, partition_by=list(keep))
    register(tmp_path, ICEBERG)
    rows = sorted(iceberg_rows(tmp_path), key=lambda row: int(row["id"]))
    assert {name: [row[name] for row in rows] for name in keep} == {name: cells.to_pylist() for name, cells in keep.items()}


def test_a_checkpoint_alone_tells_the_same(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep=KEEP, partition_by=["section"])
    register(tmp_path, DELTA)
    want = delta_rows(tmp_path)
    log = tmp_path / "data/_delta_log"
    assert json.loads((log / "_last_checkpoint").read_text())["version"] == 0
    (log / f"{0:020d}.json").unlink()
    assert delta_rows(tmp_path) == want
    register(tmp_path, DELTA)
    assert DeltaTable(tmp_path / "data").version() == 0, "our own reader takes it for the same"


def test_statistics_of_delta_are_of_the_values(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep={"number": KEEP["number"]}, shards=2)
    register(tmp_path, DELTA)
    actions = pa.table(DeltaTable(tmp_path / "data").get_add_actions(flatten=True)).sort_by("path")
    assert actions.column("num_records").to_pylist() == [20, 20]
    assert actions.column("min.number").to_pylist() == [1, 20]
    assert actions.column("max.number").to_pylist() == [19, 39]
    assert actions.column("null_count.number").to_pylist() == [3, 3]
    assert actions.column("min.id").to_pylist() == ["0", "20"]
    assert actions.column("max.id").to_pylist() == ["9", "39"]


def test_statistics_of_iceberg_leave_out_files(tmp_path: Path) -> None:
    publish_vectors(tmp_path, VECTORS, keep={"number": KEEP["number"]}, shards=2)
    register(tmp_path, ICEBERG)
    table = StaticTable.from_metadata(str(tmp_path / "data"))
    counts = {
        condition: (len(list(scan.plan_files())), len(scan.to_arrow()))
        for condition in ("number > 30", "number < 0", "number is null", "id = '5'")
        for scan in [table.scan(row_filter=condition)]
    }
    assert counts == {"number > 30": (1, 8), "number < 0": (0, 0), "number is null": (2, 6), "id = '5'": (1, 1)}

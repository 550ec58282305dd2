"""Kept columns through the real command: what is in the published parts is what pyarrow and Python read from the source.

every type       one column of each, marks of extension types included: equal in value and type
files that differ  pairs of objects whose types differ: each value as it is, or its row or object in the quarantine
"""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from tests.drivers import Ended
from tests.local_replicas import local_embed, local_run
from workers.reading.widening import output_type

pytestmark = pytest.mark.slow

ROWS = 4
IDS = [uuid.UUID(int=number).bytes for number in range(1, 5)]


def marked(kind: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


COLUMNS: dict[str, pa.Array] = {
    "i8": pa.array([1, None, -128, 127], pa.int8()), "u64": pa.array([1, 2**64 - 1, 3, None], pa.uint64()),
    "f16": pa.array([1, 2.5, None, -0.0], pa.float16()), "f32": pa.array([1, float("inf"), -0.0, None], pa.float32()),
    "f64": pa.array([1, 5e-324, 0.1, None], pa.float64()), "bool": pa.array([True, None, False, True]),
    "dec9": pa.array([Decimal("1.10"), None, Decimal("-2.20"), Decimal("0.00")], pa.decimal128(9, 2)),
    "dec76": pa.array([Decimal(10**70), None, Decimal(1), Decimal(-1)], pa.decimal256(76, 0)),
    "dec32": pa.array([Decimal("1.1"), None, Decimal("2.2"), Decimal("3.3")], pa.decimal32(4, 1)),
    "date32": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None, dt.date(2024, 2, 29)]),
    "date64": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None, dt.date(2024, 2, 29)], pa.date64()),
    "ts_ms": pa.array([1, 2, None, 253402300799000], pa.timestamp("ms")),
    "ts_us": pa.array([1, 2, None, 253402300799000000], pa.timestamp("us")),
    "ts_ns": pa.array([1, 2, None, 2**62], pa.timestamp("ns")),
    "ts_tz": pa.array([1, 2, None, 4], pa.timestamp("ns", "America/New_York")),
    "t32": pa.array([1, 2, None, 4], pa.time32("ms")), "t64": pa.array([1, 2, None, 4], pa.time64("ns")),
    "dur": pa.array([1, 2, None, 4], pa.duration("ns")), "fsb": pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
    "binview": pa.array([b"\xff\x00", None, b"", b"x"], pa.binary_view()),
    "view": pa.array(["a\0b", None, "", "ü\u2028 long enough to be outside"], pa.string_view()),
    "dict": pa.array(["a", None, "b", "a"]).dictionary_encode(), "dict_i": pa.array([10, None, 20, 10]).dictionary_encode(),
    "list": pa.array([[1, None], None, [], [3]], pa.list_(pa.int32())),
    "llist": pa.array([["a"], None, [], ["b"]], pa.large_list(pa.large_string())),
    "fsl": pa.array([[1, 2], [3, 4], None, [5, 6]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}, {"a": 2, "b": "y"}]),
    "list_struct": pa.array([[{"a": 1, "b": ["x", None]}], None, [], [None]]),
    "map_list": pa.array([[("k", [1])], None, [], [("k", [])]], pa.map_(pa.string(), pa.list_(pa.int64()))),
    "struct_dict": pa.StructArray.from_arrays([pa.array(["a", "b", None, "a"]).dictionary_encode()], ["d"]),
    "struct_notnull": pa.StructArray.from_arrays(
        [pa.array([1, 2, 3, 4])], fields=[pa.field("a", pa.int64(), nullable=False)]
    ),
    "uuid": marked(pa.uuid(), [IDS[0], None, *IDS[2:]]), "json": marked(pa.json_(), ['{"a":1}', None, "[]", '"x"']),
    "bool8": marked(pa.bool8(), [1, None, 0, 1]), "tensor": marked(pa.fixed_shape_tensor(pa.float32(), [2]), [[1, 2]] * 4),
    "list_uuid": pa.ListArray.from_arrays(pa.array([0, 1, 2, 2, 3], pa.int32()), marked(pa.uuid(), IDS[:3])),
    "struct_uuid": pa.StructArray.from_arrays([marked(pa.uuid(), IDS)], ["u"]),
    "dots.in.name": pa.array([1, 2, 3, 4]), "Id": pa.array([1, 2, 3, 4]), "": pa.array([1, 2, 3, 4]),
}  # fmt: skip


def embedded(folder: Path, model: Path, keep: list[str], **run: Any) -> tuple[Ended, Path]:
    config = folder / "run.yaml"
    settings = {
        "corpus": {"uri": f"{folder}/in/", "id": "id", "text": "text", "keep": keep},
        "model": {"name": str(model)},
        "output": {"uri": f"{folder}/out"},
        "cluster": {"address": "local", "replicas": 1},
        "run": run,
    }
    config.write_text(yaml.safe_dump(settings))
    return local_embed(config), config


def put(folder: Path, name: str, columns: dict[str, Any]) -> None:
    (folder / "in").mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    rows = {"id": [f"{name}{row}" for row in range(count)], "text": [f"text {row}" for row in range(count)]}
    pq.write_table(pa.table(rows | columns), folder / "in" / f"{name}.parquet")


def test_every_type_comes_out_as_it_went_in(tmp_path: Path, small_model: Path) -> None:
    put(tmp_path, "a", COLUMNS)
    ended, _ = embedded(tmp_path, small_model, list(COLUMNS))
    assert ended.rc == 0, ended.log
    published = ds.dataset(ended.summary["data"]).to_table().sort_by("id")
    source = pq.read_table(tmp_path / "in" / "a.parquet")
    for name in COLUMNS:
        read = source[name].combine_chunks()
        expected = read if read.type == output_type(read.type) else None
        assert published[name].type == output_type(read.type), name
        if expected is not None:
            assert published[name].combine_chunks().equals(expected), name
        else:
            assert published[name].to_pylist() == read.to_pylist(), name


def test_files_that_differ(tmp_path: Path, small_model: Path) -> None:
    """One run: two objects are widened, the third has one column too many kinds apart; its neighbours are embedded."""
    big = 2**53 + 1
    put(tmp_path, "a", {
        "n": pa.array([1, 2], pa.int64()), "x": pa.array([big, 1]), "at": pa.array([1, 2], pa.timestamp("ns")),
        "who": [{"a": 1}] * 2, "flag": [True, False], "money": pa.array([Decimal("0.1")] * 2, pa.decimal128(5, 1)),
    })  # fmt: skip
    put(tmp_path, "b", {
        "n": pa.array([2**63, 3], pa.uint64()), "x": [0.5, 1.0], "at": pa.array([253402300799, 5], pa.timestamp("s")),
        "who": [{"a": 2.5, "b": ["x"]}] * 2, "flag": pa.nulls(2), "money": pa.array([1, 2**40]),
    })  # fmt: skip
    put(tmp_path, "c", {"flag": [1, 2]})
    ended, config = embedded(tmp_path, small_model, ["n", "x", "at", "who", "flag", "money"], max_quarantined_rows=-1)
    assert ended.rc == 0, ended.log
    rows = {row["id"]: row for row in ds.dataset(ended.summary["data"]).to_table().to_pylist()}
    assert set(rows) == {"a1", "b1"}
    assert rows["a1"] | {"embedding": 0} == rows["a1"] | {
        "embedding": 0, "n": 2, "x": 1.0, "who": {"a": 1.0, "b": None}, "flag": False, "money": Decimal("0.1"),
    }  # fmt: skip
    assert rows["b1"]["at"] == dt.datetime(1970, 1, 1, 0, 0, 5)
    assert rows["b1"]["money"] == 2**40
    lost = ds.dataset(next((tmp_path / "out/runs").glob("*/quarantine"))).to_table().to_pylist()
    reasons = {row["id"] or row["object"].rpartition("/")[2]: row["reason"] for row in lost}
    assert reasons["a0"] == "kept column x: a value of type int64 does not fit double"
    assert reasons["b0"] == "kept column n: a value of type uint64 does not fit int64"
    assert "kept column 'flag': int64 cannot become bool" in reasons["c.parquet"]
    planned = local_run("plan", config)
    assert "column x (corpus.keep) is int64, published as double" in ended.log + planned.log

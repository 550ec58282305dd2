"""Two objects whose kept column differs in type: what it is published as, and which rows or which object is left out.

Every pair is planned and read in both orders; what is published is compared with the source by an oracle without casts.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.corpus.footers
from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.jobs.source_files import config, jsonl
from tests.workers.reading.any_arrow import ThisProcess, meaning
from workers.errors import ObjectError
from workers.reading.reader import read_windows
from workers.records.shard import Shard

BIG = 2**53 + 1
D, S, M = Decimal, pa.struct, pa.map_
US, NS, DAY, HALF = pa.timestamp("us"), pa.timestamp("ns"), pa.date32(), pa.float16()
STAMP, FAR = dt.datetime(2024, 1, 1, 12, 30), dt.datetime(9999, 12, 31)
LONG = "12345678901234567890.1"


def array(kind: pa.DataType, *values: Any) -> pa.Array:
    return pa.array(values, kind)


WIDENED = [  # two columns, what both become, and the rows that this does not hold
    (array(US, FAR, STAMP), array(NS, 1, 2), NS, {"a0"}),
    (array(NS, 1), array(pa.timestamp("ms"), 1, 253402300799000), NS, {"b1"}),
    (array(pa.timestamp("us", "UTC"), 1), array(pa.timestamp("us", "Europe/Berlin"), 1), pa.timestamp("us", "UTC"), set()),
    (array(pa.int64(), BIG, 1), array(pa.float64(), 0.5), pa.float64(), {"a0"}),
    (array(pa.int32(), 2**24 + 1), array(pa.float32(), 0.5), pa.float64(), set()),
    (array(pa.int64(), -1), array(pa.uint64(), 2**64 - 1, 1), pa.int64(), {"b0"}),
    (array(pa.uint64(), 2**64 - 1, 1), array(pa.float64(), 0.5), pa.float64(), {"a0"}),
    (array(pa.int64(), 2**20 + 1), array(HALF, 0.5), pa.float64(), set()),
    (array(pa.int8(), -1), array(pa.uint8(), 255), pa.int16(), set()),
    (array(pa.uint32(), 2**32 - 1), array(pa.int32(), -1), pa.int64(), set()),
    (array(pa.decimal128(5, 2), D("1.10")), array(pa.decimal128(10, 4), D("1.1234")), pa.decimal128(10, 4), set()),
    (array(pa.decimal128(5, 1), D("0.1")), array(pa.int64(), 1, 2**40), pa.decimal128(20, 1), set()),
    (array(pa.decimal128(38, 0), D(10**37)), array(pa.decimal128(38, 38), D("1e-38")), pa.decimal256(76, 38), set()),
    (array(pa.float64(), 0.1), array(HALF, 0.5), pa.float64(), set()),
    (array(pa.string(), "a"), array(pa.binary(), b"a", b"\xff"), pa.string(), {"b1"}),
    (array(pa.binary(2), b"ab"), array(pa.binary(3), b"abc"), pa.binary(), set()),
    (array(S({"a": pa.int64()}), {"a": 1}), array(S({"c": pa.string(), "a": pa.int64()}), {"a": 2, "c": "z"}),
     S({"a": pa.int64(), "c": pa.string()}), set()),
    (array(S({"a": pa.int32()}), {"a": 1}), array(S({"a": pa.int64()}), {"a": 2**40}), S({"a": pa.int64()}), set()),
    (array(S({"a": US}), {"a": FAR}, {"a": STAMP}), array(S({"a": NS}), {"a": 1}), S({"a": NS}), {"a0"}),
    (array(pa.list_(pa.int32()), [1]), array(pa.list_(pa.int64()), [2**40]), pa.list_(pa.int64()), set()),
    (array(pa.list_(pa.float32(), 2), [1, 2]), array(pa.list_(pa.float32(), 3), [1, 2, 3]), pa.list_(pa.float32()), set()),
    (pa.nulls(2), array(pa.list_(pa.string()), ["a"]), pa.list_(pa.string()), set()),
    (array(pa.list_(pa.null()), [None], []), array(pa.list_(pa.string()), ["a"]), pa.list_(pa.string()), set()),
    (array(pa.time32("ms"), 1), array(pa.time64("us"), 1), pa.time64("us"), set()),
    (array(pa.duration("s"), 1, 2**60), array(pa.duration("ns"), 1), pa.duration("ns"), {"a1"}),
    (pa.array(["a"]).dictionary_encode(), array(pa.large_string(), "c"), pa.string(), set()),
]  # fmt: skip
APART = [
    (array(US, STAMP), array(pa.int64(), 1_700_000_000)), (array(DAY, dt.date(2024, 1, 1)), array(pa.int32(), 20240101)),
    (array(pa.time64("us"), 1), array(pa.int64(), 930)), (array(pa.duration("s"), 1), array(pa.int64(), 5)),
    (array(DAY, dt.date(2024, 1, 1)), array(US, STAMP)), (array(pa.time64("us"), 1), array(US, STAMP)),
    (array(pa.bool_(), True), array(pa.int64(), 2)), (array(pa.bool_(), True), array(pa.float64(), 0.5)),
    (array(pa.bool_(), True), array(pa.string(), "1")), (array(pa.int64(), 1), array(pa.string(), "007")),
    (array(pa.float64(), 1.5), array(pa.string(), "1e2")), (array(pa.decimal128(25, 1), D(LONG)), array(pa.float64(), 0.5)),
    (array(pa.decimal128(25, 1), D("123456789.1")), array(pa.float32(), 0.5)),
    (array(pa.decimal128(5, 2), D("1.10")), array(pa.string(), "1.234")),
    (array(US, STAMP), array(pa.string(), "2024-01-01")),
    (array(US, STAMP), array(pa.timestamp("us", "UTC"), 1)), (array(DAY, dt.date(2024, 1, 1)), array(pa.string(), "n/a")),
    (array(pa.string(), "a"), pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"], pa.binary(16)))),
    (array(S({"a": pa.bool_()}), {"a": True}), array(S({"a": pa.int64()}), {"a": 2})),
    (array(pa.list_(pa.bool_()), [True]), array(pa.list_(pa.int64()), [2])),
    (array(M(pa.string(), pa.bool_()), [("k", True)]), array(M(pa.string(), pa.int64()), [("k", 2)])),
    (array(S({"a": DAY}), {"a": dt.date(2024, 1, 1)}), array(S({"a": US}), {"a": STAMP})),
    (array(pa.list_(pa.int64()), [1]), array(pa.list_(pa.list_(pa.int64())), [[1]])),
    (array(pa.string(), "a"), array(pa.list_(pa.string()), ["a"])),
    (array(M(pa.string(), pa.int64()), [("k", 1)]), array(S({"k": pa.int64()}), {"k": 1})),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.corpus.footers, "IsolatedProcess", ThisProcess)


def published(folder: Path) -> tuple[pa.DataType, dict[str, Any], set[str], set[str], str]:
    """Type, values by id, ids quarantined, objects left out, what planning says."""
    corpus = discover(config(folder, id="id", keep=["v"]))
    values: dict[str, Any] = {}
    lost: set[str] = set()
    for planned in cut(corpus, 1 << 20, id_given=True):
        for piece in planned.slices:
            if piece.uri in corpus.drifted:
                with pytest.raises(ObjectError):
                    list(read_windows(Shard(0, (piece,), 0), corpus.read_plan, {}))
                continue
            for window in read_windows(Shard(0, (piece,), 0), corpus.read_plan, {}):
                values |= dict(zip(window.table["id"].to_pylist(), window.table["keep.v"], strict=True))
                lost |= {str(row.id) for row in window.quarantined}
    left_out = {uri.rpartition("/")[2] for uri in corpus.drifted}
    return corpus.read_plan.keep.field("v").type, values, lost, left_out, "\n".join(corpus.warnings)


def put(folder: Path, name: str, column: pa.Array) -> None:
    ids = [f"{name}{row}" for row in range(len(column))]
    pq.write_table(pa.table({"id": ids, "text": ["words"] * len(column), "v": column}), folder / f"{name}.parquet")


def written(folder: Path) -> dict[str, pa.Scalar]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return {key: value for table in tables for key, value in zip(table["id"].to_pylist(), table["v"], strict=True)}


@pytest.mark.parametrize(("first", "second", "kind", "lost"), WIDENED, ids=lambda value: str(getattr(value, "type", "")))
def test_widened(tmp_path: Path, first: pa.Array, second: pa.Array, kind: pa.DataType, lost: set[str]) -> None:
    put(tmp_path, "a", first)
    put(tmp_path, "b", second)
    found, values, quarantined, left_out, told = published(tmp_path)
    assert (found, quarantined, left_out) == (kind, lost, set())
    source = written(tmp_path)
    assert set(values) == set(source) - lost
    assert {key: meaning(value) for key, value in values.items()} == {key: meaning(source[key]) for key in values}
    if lost:
        assert f"published as {kind}" in told


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("first", "second"), APART, ids=lambda value: str(getattr(value, "type", "")))
def test_without_a_common_type(tmp_path: Path, first: pa.Array, second: pa.Array, turned: bool) -> None:
    """What most objects have is published; the other object is named and left out."""
    columns = (second, first) if turned else (first, second)
    put(tmp_path, "a", columns[0])
    put(tmp_path, "b", columns[1])
    put(tmp_path, "c", columns[0])
    _, values, quarantined, left_out, told = published(tmp_path)
    source = written(tmp_path)
    assert (quarantined, left_out) == (set(), {"b.parquet"})
    assert {key: meaning(value) for key, value in values.items()} == {
        key: meaning(value) for key, value in source.items() if not key.startswith("b")
    }
    assert "b.parquet: column v (corpus.keep) is " in told


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (
            array(US, STAMP), [1700000000, "2024-01-01T00:00:00", "2024-01-01T00:00:00+02:00"],
            [..., dt.datetime(2024, 1, 1), ...],
        ),
        (array(DAY, dt.date(2024, 1, 1)), [20240101, "2024-01-01", "2024-01-01T10:00:00"], [..., dt.date(2024, 1, 1), ...]),
        (array(pa.decimal128(5, 2), D("1.10")), [1, 1.5, "1.234", "2.50"], [D(1), ..., ..., D("2.5")]),
        (array(pa.bool_(), True), [1, "true", 0.5, False], [..., ..., ..., False]),
        (array(pa.int64(), 1), [True, "7", 1.0, 2**63, 8], [..., ..., 1, ..., 8]),
        (array(pa.float64(), 1.5), [0.1, BIG, "1", True], [0.1, ..., ..., ...]),
        (array(pa.binary(), b"a"), ["ü", 5], ["ü".encode(), ...]),
        (array(pa.time64("us"), 1), [930, "09:30:00"], [..., dt.time(9, 30)]),
        (array(S({"a": pa.bool_()}), {"a": True}), [{"a": 1}, {"a": False}], [..., {"a": False}]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)  # fmt: skip
def test_json_beside_parquet(tmp_path: Path, column: pa.Array, values: list[Any], expected: list[Any]) -> None:
    """`...`: the row is quarantined."""
    put(tmp_path, "a", column)
    put(tmp_path, "b", column)
    jsonl(tmp_path / "j.jsonl", [{"id": f"j{row}", "text": "words", "v": value} for row, value in enumerate(values)])
    kind, found, quarantined, left_out, _ = published(tmp_path)
    assert (kind, left_out) == (column.type, set())
    assert quarantined == {f"j{row}" for row, value in enumerate(expected) if value is ...}
    assert {key: value.as_py() for key, value in found.items() if key.startswith("j")} == {
        f"j{row}": value for row, value in enumerate(expected) if value is not ...
    }


def test_csv_beside_parquet(tmp_path: Path) -> None:
    put(tmp_path, "a", array(pa.int64(), 7))
    (tmp_path / "c.csv").write_text("id,text,v\nc0,x,7\nc1,x,007\nc2,x, 8\nc3,x,1.0\nc4,x,\n")
    kind, found, quarantined, left_out, told = published(tmp_path)
    assert (kind, quarantined, left_out) == (pa.int64(), {"c1", "c2", "c3"}, set())
    assert {key: value.as_py() for key, value in found.items()} == {"a0": 7, "c0": 7, "c4": None}
    assert "c.csv: column v (corpus.keep) is text, published as int64" in told

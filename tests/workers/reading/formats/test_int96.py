"""INT96 timestamps: published as microseconds where these hold them, else quarantined. The files are made byte by byte.

pyarrow writes INT96 only for years 1677 to 2262: values beyond are put in place of marks.
"""

from __future__ import annotations

import datetime as dt
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import discover
from tests.jobs.source_files import config
from tests.workers.corpus_files import plan_of, read

US = pa.timestamp("us")
DAY = dt.datetime(2024, 1, 1)
MARKS = [dt.date(2200, 1, 1 + n) for n in range(6)]
JULIAN = 1_721_425  # of the day before 0001-01-01
REASON = "column at: an INT96 timestamp is not a whole number of microseconds, or beyond their range"


def int96(path: Path, column: pa.Array, replaced: dict[dt.date, tuple[int, int]]) -> Path:
    """`replaced`: the day of a mark -> (nanoseconds of the day, Julian day)."""
    table = pa.table({"id": range(len(column)), "text": [f"text {row}" for row in range(len(column))], "at": column})
    pq.write_table(
        table, path, use_deprecated_int96_timestamps=True, use_dictionary=False, compression="none",
        write_statistics=False, store_schema=False,
    )  # fmt: skip
    data = path.read_bytes()
    for mark, (nanoseconds, day) in replaced.items():
        old, new = struct.pack("<qi", 0, julian(mark)), struct.pack("<qi", nanoseconds, day)
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def julian(day: dt.date) -> int:
    return day.toordinal() + JULIAN


def stamps(values: list[dt.datetime | dt.date | None]) -> list[dt.datetime | None]:
    return [dt.datetime(value.year, value.month, value.day) if isinstance(value, dt.date) else value for value in values]


WORLD = {
    MARKS[0]: (0, julian(dt.date(9999, 12, 31))),
    MARKS[1]: (0, julian(dt.date(1, 1, 1))),
    MARKS[2]: (86_399_999_999_000, julian(dt.date(9999, 12, 31))),
    MARKS[3]: (1, julian(dt.date(2024, 1, 1))),  # a nanosecond
    MARKS[4]: (0, 2**31 - 1),  # beyond what microseconds reach
    MARKS[5]: (0, -(2**31)),
}
EXPECTED = [
    dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999), None, DAY,
]  # fmt: skip


def test_far_dates_are_read_as_they_are_and_the_rest_is_named(tmp_path: Path) -> None:
    path = int96(tmp_path / "a.parquet", pa.array(stamps([*MARKS, None, DAY]), pa.timestamp("ns")), WORLD)
    corpus = discover(config(tmp_path, id="id", keep=["at"]))
    assert corpus.read_plan.keep.field("at").type == US
    found = read(path, plan_of({"at": US}, id="id"))
    assert found.kept("at") == EXPECTED
    assert found.reasons == {3: REASON, 4: REASON, 5: REASON}


@pytest.mark.parametrize("shape", ["list", "struct", "map"])
def test_inside_other_columns(tmp_path: Path, shape: str) -> None:
    leaf = pa.array(stamps([*MARKS, None, DAY]), pa.timestamp("ns"))
    count = len(leaf)
    offsets = pa.array(range(count + 1), pa.int32())
    column: dict[str, Any] = {
        "list": pa.ListArray.from_arrays(offsets, leaf),
        "struct": pa.StructArray.from_arrays([leaf, pa.array(range(count))], ["t", "n"]),
        "map": pa.MapArray.from_arrays(offsets, pa.array(["k"] * count), leaf),
    }
    path = int96(tmp_path / "a.parquet", column[shape], WORLD)
    plan = discover(config(tmp_path, id="id", keep=["at"])).read_plan
    found = read(path, plan)
    places = [0, 1, 2, 6, 7]
    wanted: dict[str, list[Any]] = {
        "list": [[value] for value in EXPECTED],
        "struct": [{"t": value, "n": place} for value, place in zip(EXPECTED, places, strict=True)],
        "map": [[("k", value)] for value in EXPECTED],
    }
    assert found.kept("at") == wanted[shape]
    assert found.reasons == {3: REASON, 4: REASON, 5: REASON}


def test_over_many_batches_and_row_groups(tmp_path: Path) -> None:
    """The three reads of the column stay side by side; the text column splits batches of its own accord."""
    count = 20_000
    column = pa.array(
        [DAY + dt.timedelta(microseconds=row) for row in range(count - 1)] + stamps([MARKS[0]]), pa.timestamp("ns")
    )
    path = tmp_path / "a.parquet"
    int96(path, column, {MARKS[0]: WORLD[MARKS[0]]})
    found = read(path, plan_of({"at": US}, id="id", id_type=pa.int64()))
    assert found.reasons == {}
    assert found.kept("at")[:-1] == column.to_pylist()[:-1]
    assert found.kept("at")[-1] == dt.datetime(9999, 12, 31)
    nanosecond = pa.array([*([0] * 9000), 1_700_000_000_000_000_001, *([0] * 3000)], pa.timestamp("ns"))
    table = pa.table({"id": range(12_001), "text": ["word " * (row % 900) + "." for row in range(12_001)], "at": nanosecond})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, row_group_size=5000)
    found = read(path, plan_of({"at": US}, id="id", id_type=pa.int64()))
    assert found.reasons == {9000: REASON}
    assert len(found.documents) == 12_000

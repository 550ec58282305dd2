"""Digests of rows: equal exactly where Python's values are, for every kind of column, sliced or not, compiled or not."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from workers.snapshot.changes.digests import key_digests, row_digests, vector_digests
from workers.table.vectors import to_arrow_lists

DAY = datetime.date(2026, 1, 2)
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [True, False, None, True]),
    "int8": (pa.int8(), [1, -1, None, 1]),
    "int64": (pa.int64(), [1 << 40, 0, None, 0, 1]),
    "double": (pa.float64(), [1.5, 0.0, None, 0.0, 1.5]),
    "half": (pa.float16(), [1.5, 0.25, None]),
    "decimal": (pa.decimal128(20, 2), [decimal.Decimal("1.50"), decimal.Decimal("1.51"), None]),
    "wide decimal": (pa.decimal256(60, 2), [decimal.Decimal("1.50"), decimal.Decimal("-1.50"), None]),
    "date": (pa.date32(), [DAY, DAY + datetime.timedelta(1), None]),
    "nanoseconds": (pa.timestamp("ns", "UTC"), [1, 2, None, 1]),
    "time": (pa.time64("us"), [1, 2, None]),
    "string": (pa.string(), ["", "a", None, "a", "\0", "ä"]),
    "large string": (pa.large_string(), ["x" * 40, "x" * 41, None, ""]),
    "view": (pa.string_view(), ["x" * 40, "a", None, "a"]),
    "binary": (pa.binary(), [b"", b"\0", None, b"\0"]),
    "fixed binary": (pa.binary(3), [b"abc", b"abd", None]),
    "long fixed binary": (pa.binary(20), [b"a" * 20, b"b" * 20, None]),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), ["a", "b", None, "a"]),
    "list": (pa.list_(pa.int32()), [[], [1], [1, 2], None, [None], [2, 1], [1]]),
    "nested list": (pa.list_(pa.list_(pa.string())), [[["a"], ["b"]], [["a", "b"]], [[], ["a", "b"]], None, [None]]),
    "large list": (pa.large_list(pa.string()), [["ab", "c"], ["a", "bc"], ["abc"], None]),
    "fixed list": (pa.list_(pa.int16(), 2), [[1, 2], [2, 1], None, [None, 1], [1, 2]]),
    "struct": (
        pa.struct({"a": pa.int32(), "b": pa.string()}),
        [{"a": 1, "b": "x"}, {"a": 1, "b": None}, None, {"a": None, "b": None}],
    ),
    "map": (pa.map_(pa.string(), pa.int32()), [[("a", 1)], [("a", 2)], [], None, [("a", 1), ("b", 2)], [("a", 1)]]),
    "null": (pa.null(), [None, None]),
}  # fmt: skip


def _same(values: list[Any]) -> list[list[bool]]:
    return [[one == other for other in values] for one in values]


@pytest.mark.parametrize("name", COLUMNS)
def test_equal_where_the_values_are(name: str) -> None:
    kind, values = COLUMNS[name]
    column = pa.array(values, kind)
    found = row_digests(len(column), {"c": column})
    assert [[bool((one == other).all()) for other in found] for one in found] == _same(values)
    padded = pa.array([*values[::-1], *values, *values], kind).slice(len(values), len(values))
    assert (row_digests(len(values), {"c": padded}) == found).all(), "a slice of a larger array"


def test_what_a_null_hides_does_not_count() -> None:
    one = pa.Array.from_buffers(pa.int32(), 1, [pa.py_buffer(b"\0"), pa.py_buffer(b"\1\0\0\0")])
    other = pa.array([None], pa.int32())
    assert (row_digests(1, {"c": one}) == row_digests(1, {"c": other})).all()


def test_bits_not_values_of_floats() -> None:
    column = pa.array([0.0, -0.0, float("nan"), float("nan")], pa.float32())
    found = row_digests(4, {"c": column})
    assert (found[0] != found[1]).any()
    assert (found[2] == found[3]).all()


def test_names_and_types_count_and_order_does_not() -> None:
    ones, twos = pa.array([1], pa.int32()), pa.array([2], pa.int32())
    first = row_digests(1, {"a": ones, "b": twos})
    assert (first == row_digests(1, {"b": twos, "a": ones})).all()
    for other in ({"a": twos, "b": ones}, {"a": ones}, {"a": ones, "c": twos}, {"a": ones.cast(pa.int64()), "b": twos}, {}):
        assert (first != row_digests(1, other)).any()


def test_keys() -> None:
    ids = pa.array(["a", "b", "a1", "a"])
    whole = key_digests(ids, None)
    assert (whole[0] == whole[3]).all()
    assert len(np.unique(whole, axis=0)) == 3
    chunks = key_digests(ids, pa.array([0, 0, 0, 1], pa.int32()))
    assert len(np.unique(np.concatenate([whole, chunks]), axis=0)) == 7, "a chunk is not a whole document"
    assert (key_digests(pa.array([12, -3]), None) == key_digests(pa.array(["12", "-3"]), None)).all()


def test_vectors_and_lists_of_them() -> None:
    cells = np.arange(12, dtype=np.float32).reshape(4, 3)
    cells[3] = cells[0]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(cells.reshape(-1)), 3)
    found = vector_digests(flat)
    assert (found[0] == found[3]).all()
    assert len(np.unique(found, axis=0)) == 3
    assert (vector_digests(flat.slice(1, 2)) == found[1:3]).all()
    lists, _ = to_arrow_lists(cells, np.array([1, 2, 1]), "float32")  # type: ignore[arg-type]
    of_lists = vector_digests(lists)
    assert (of_lists[0] == of_lists[2]).all()
    assert (of_lists[0] == found[0]).all(), "one vector in a list has the same bytes"
    assert (vector_digests(lists.slice(1)) == of_lists[1:]).all()

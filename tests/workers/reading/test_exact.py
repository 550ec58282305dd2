"""Values in another type are the same values, or none: against Python's own numbers, with edges that Arrow's cast misses."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from workers.reading.exact import settled

BIG = 2**53 + 1
LONG = 2**63


@pytest.mark.parametrize(
    ("values", "source", "target", "expected"),
    [
        ([BIG, BIG - 1, LONG - 1, -LONG, None], pa.int64(), pa.float64(), [None, float(BIG - 1), None, float(-LONG), None]),
        ([2**64 - 1, LONG, 5], pa.uint64(), pa.float64(), [None, float(LONG), 5.0]),
        ([2**24 + 1, 2**24], pa.int32(), pa.float32(), [None, 2.0**24]),
        ([2049, 2048, 70000], pa.int32(), pa.float16(), [None, 2048.0, None]),
        ([0.1, 0.5, 1e300, float("inf")], pa.float64(), pa.float32(), [None, 0.5, None, float("inf")]),
        ([1.5, -0.0, 1e30, float(LONG), float("inf"), 2.0], pa.float64(), pa.int64(), [None, 0, None, None, None, 2]),
        ([300, -1, 255], pa.int64(), pa.uint8(), [None, None, 255]),
        ([2**64 - 1, 1], pa.uint64(), pa.int64(), [None, 1]),
        ([1, 2**40], pa.int64(), pa.decimal128(5, 1), [Decimal("1.0"), None]),
        ([127, -128], pa.int8(), pa.decimal128(4, 1), [Decimal("127.0"), Decimal("-128.0")]),
        ([2**64 - 1], pa.uint64(), pa.decimal256(60, 3), [Decimal(2**64 - 1)]),
        ([Decimal("1.10"), Decimal("1.11")], pa.decimal128(5, 2), pa.decimal128(5, 1), [Decimal("1.1"), None]),
        ([Decimal("7.0"), Decimal("7.5"), Decimal("9" * 19)], pa.decimal128(20, 1), pa.int64(), [7, None, None]),
        (["é", None], pa.string(), pa.binary(), ["é".encode(), None]),
        ([b"\xff", b"a"], pa.binary(), pa.string(), [None, "a"]),
        ([b"ab", b"abc"], pa.binary(), pa.binary(2), [b"ab", None]),
        (
            [datetime.datetime(9999, 12, 31), datetime.datetime(2024, 1, 1)], pa.timestamp("us"), pa.timestamp("ns"),
            [None, datetime.datetime(2024, 1, 1)],
        ),
        ([5000, 5001], pa.timestamp("us"), pa.timestamp("ms"), [datetime.datetime(1970, 1, 1, 0, 0, 0, 5000), None]),
        (
            [86_400_000, 1, 2**31 * 86_400_000], pa.date64(), pa.date64(), [datetime.date(1970, 1, 2), None, None],
        ),
        ([[1]], pa.list_(pa.date64()), pa.list_(pa.date64()), [None]),
        ([2**60, 1], pa.duration("s"), pa.duration("ns"), [None, datetime.timedelta(seconds=1)]),
        ([[1, 2], [1], None], pa.list_(pa.int8()), pa.list_(pa.int64(), 2), [[1, 2], None, None]),
        ([[1, 2], None, []], pa.large_list(pa.int8()), pa.list_(pa.int64()), [[1, 2], None, []]),
        ([[BIG], [1, None], []], pa.list_(pa.int64()), pa.list_(pa.float64()), [None, [1.0, None], []]),
        (
            [{"a": 1}, None, {"a": BIG}], pa.struct({"a": pa.int64()}), pa.struct({"b": pa.string(), "a": pa.float64()}),
            [{"b": None, "a": 1.0}, None, None],
        ),
        (
            [[("k", BIG), ("l", 1)], [("m", 2)], None], pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.float64()),
            [None, [("m", 2.0)], None],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)  # fmt: skip
def test_values_pass_as_they_are_or_not_at_all(
    values: list[Any], source: pa.DataType, target: pa.DataType, expected: list[Any]
) -> None:
    array = pa.array(values, source)
    lost = {place for place, value in enumerate(expected) if value is None and values[place] is not None}
    for padded in (array, pa.concat_arrays([array, array]).slice(len(array))):  # also with an offset
        found, bad = settled(padded, target)
        assert found.type == target
        assert found.to_pylist() == expected
        assert set(bad) == lost


def test_encodings_around_values() -> None:
    names = pa.array(["a", None, "b", "a"])
    for encoded in (
        names.dictionary_encode(),
        pa.compute.run_end_encode(names),
        pa.DictionaryArray.from_arrays([0, None, 1, 0], pa.array(["a", "b"], pa.string_view())),
    ):
        assert settled(encoded, pa.string()) == (names, {})
    nested = pa.StructArray.from_arrays([names.dictionary_encode()], ["s"])
    assert settled(nested, pa.struct({"s": pa.string()}))[0].to_pylist() == [{"s": s} for s in names.to_pylist()]


def test_a_mark_stays_or_its_storage_is_taken() -> None:
    marked = pa.array([b"0123456789abcdef", None], pa.uuid())
    assert settled(marked, pa.uuid()) == (marked, {})
    assert settled(marked, pa.binary())[0].to_pylist() == [b"0123456789abcdef", None]
    truths = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8()))
    assert set(settled(truths, pa.int8())[1]) == {0}, "true is not 1"


@pytest.mark.parametrize(
    "target", [pa.bool_(), pa.date32(), pa.timestamp("us"), pa.string(), pa.duration("s"), pa.time64("us")]
)
def test_a_number_is_nothing_else(target: pa.DataType) -> None:
    found, bad = settled(pa.array([1, None, 20240101]), target)
    assert found.to_pylist() == [None] * 3
    assert set(bad) == {0, 2}

"""What JSON values, CSV cells and folder names mean under a settled type. Expected values are written by hand."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from workers.reading.notation import MISFITS, array_of, from_json, from_text, text_column_of, text_refusal

REFUSED = object()
DAY, NOON = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 12)
STAMP, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")
ID = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("value", "target", "expected"),
    [
        (True, pa.bool_(), True), (1, pa.bool_(), REFUSED), ("true", pa.bool_(), REFUSED), (0.5, pa.bool_(), REFUSED),
        (7, pa.int64(), 7), (True, pa.int64(), REFUSED), ("7", pa.int64(), REFUSED), (1.0, pa.int64(), 1),
        (1.5, pa.int64(), REFUSED), (2**63, pa.int64(), REFUSED), (1e30, pa.int64(), REFUSED), (300, pa.uint8(), REFUSED),
        (0.1, pa.float64(), 0.1), (2**53 + 1, pa.float64(), REFUSED), (2**60, pa.float64(), 2.0**60),
        ("1", pa.float64(), REFUSED), (True, pa.float64(), REFUSED), (float("inf"), pa.float32(), float("inf")),
        (16777217, pa.float32(), REFUSED), (0.5, pa.float32(), 0.5), (0.30000000000000004, pa.float32(), REFUSED),
        (1e300, pa.float32(), REFUSED),
        (1, pa.decimal128(5, 2), Decimal("1.00")), (1.5, pa.decimal128(5, 2), REFUSED),
        ("2.50", pa.decimal128(5, 2), Decimal("2.50")), ("1.234", pa.decimal128(5, 2), REFUSED),
        ("2024-01-02", pa.date32(), DAY), ("2024-01-02", pa.date64(), DAY), (20240102, pa.date32(), REFUSED),
        ("2024-01-02T10:00:00", pa.date32(), REFUSED), ("2024-13-01", pa.date32(), REFUSED),
        ("2024-01-02T12:00:00", STAMP, NOON), ("2024-01-02 12:00", STAMP, NOON), (1700000000, STAMP, REFUSED),
        ("2024-01-02", STAMP, REFUSED), ("2024-01-02T12:00:00Z", STAMP, REFUSED), ("01/02/2024", STAMP, REFUSED),
        ("2024-01-02T12:00:00.0000001", STAMP, REFUSED),
        ("2024-01-02T14:00:00+02:00", ZONED, NOON.replace(tzinfo=datetime.UTC)), ("2024-01-02T12:00:00", ZONED, REFUSED),
        ("09:30:00", pa.time64("us"), datetime.time(9, 30)), (930, pa.time64("us"), REFUSED), (5, pa.duration("s"), REFUSED),
        ("ü", pa.binary(), "ü".encode()), (5, pa.binary(), REFUSED),
        (5, pa.string(), REFUSED), (True, pa.string(), REFUSED), ({"a": "é"}, pa.string(), REFUSED),
        (str(ID), pa.uuid(), ID), ("no", pa.uuid(), REFUSED), ({"a": 1}, pa.json_(), '{"a": 1}'), ("x", pa.json_(), '"x"'),
        (True, pa.bool8(), True), (1, pa.bool8(), REFUSED),
        ([True], pa.list_(pa.bool_()), [True]), ([2], pa.list_(pa.bool_()), REFUSED), ("a", pa.list_(pa.string()), REFUSED),
        ({"a": "2024-01-02"}, pa.struct({"a": pa.date32(), "b": pa.int8()}), {"a": DAY, "b": None}),
        ({"c": 1}, pa.struct({"a": pa.int8()}), REFUSED), ({"a": 1}, pa.struct({"a": pa.bool_()}), REFUSED),
        ({"k": 1}, pa.map_(pa.string(), pa.int64()), [("k", 1)]), ({"k": True}, pa.map_(pa.string(), pa.int64()), REFUSED),
        (None, pa.int64(), None), ([None], pa.list_(pa.int8()), [None]),
    ],
)  # fmt: skip
def test_json_values(value: Any, target: pa.DataType, expected: Any) -> None:
    try:
        found = array_of([from_json(value, target)], target)
    except MISFITS:
        assert expected is REFUSED
        return
    assert found.type == target
    assert found.to_pylist() == [expected]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("7", pa.int64(), 7), ("-7", pa.int8(), -7), ("007", pa.int64(), REFUSED), (" 8", pa.int64(), REFUSED),
        ("1.0", pa.int64(), REFUSED), ("1e2", pa.int64(), REFUSED), ("300", pa.int8(), REFUSED), ("", pa.int64(), REFUSED),
        ("1e2", pa.float64(), 100.0), ("0.10", pa.float64(), 0.1), ("1.", pa.float64(), REFUSED),
        (".5", pa.float64(), REFUSED),
        ("nan", pa.float64(), "nan"), ("1e999", pa.float64(), REFUSED), ("0.10000000000000001", pa.float64(), 0.1),
        ("9007199254740993", pa.float64(), REFUSED), ("12345678901234567890.1", pa.float64(), REFUSED),
        ("0.1", pa.float32(), 0.10000000149011612), ("123456789.1", pa.float32(), REFUSED), ("1e23", pa.float64(), 1e23),
        ("True", pa.bool_(), True), ("false", pa.bool_(), False), ("1", pa.bool_(), REFUSED), ("no", pa.bool_(), REFUSED),
        ("1.5", pa.decimal128(5, 2), Decimal("1.50")), ("1.555", pa.decimal128(5, 2), REFUSED),
        ("01.5", pa.decimal128(5, 2), REFUSED), ("2024-01-02", pa.date32(), DAY), ("2024-1-2", pa.date32(), REFUSED),
        ("2024-01-02 12:00:00", STAMP, NOON), ("a", pa.binary(), b"a"), (str(ID), pa.uuid(), ID),
        ('{"a": 1}', pa.json_(), '{"a": 1}'), ("{", pa.json_(), REFUSED), ("abc", pa.string(), "abc"),
        ("ab", pa.binary(2), b"ab"), ("abc", pa.binary(2), REFUSED),
    ],
)  # fmt: skip
def test_texts(text: str, target: pa.DataType, expected: Any) -> None:
    assert text_refusal(target) is None
    found, bad = text_column_of(pa.array([text, None]), target, "kept column v")
    assert found.type == target
    assert found[1].as_py() is None
    if expected is REFUSED:
        assert bad == {0: f"kept column v: a value of type string does not fit {target}"}
        assert found[0].as_py() is None
    else:
        assert bad == {}
        assert str(found[0].as_py()) == expected if expected == "nan" else found[0].as_py() == expected


def test_texts_are_no_lists_structs_maps_and_durations() -> None:
    for target in (pa.list_(pa.int8()), pa.struct({"a": pa.int8()}), pa.map_(pa.string(), pa.int8()), pa.duration("s")):
        assert text_refusal(target) == f"string cannot become {target}"


def test_a_double_keeps_every_number_that_is_one() -> None:
    for text in ("0.1", "1e-320", "1.7976931348623157e308", "123456789012345680", "-0.0"):
        assert from_text(text, pa.float64()) == float(text)

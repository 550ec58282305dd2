"""Which types have a common one, and which values may pass from one to another. The expected types are written by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from workers.reading.widening import join, output_type, refusal, unify

DECIMAL = pa.decimal128


@pytest.mark.parametrize(
    ("leading", "other", "expected"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint8(), pa.int16(), pa.int16()),
        (pa.uint32(), pa.int32(), pa.int64()),
        (pa.uint64(), pa.int8(), pa.int64()),
        (pa.int8(), pa.float16(), pa.float16()),
        (pa.int16(), pa.float16(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.uint64(), pa.float16(), pa.float64()),
        (pa.float16(), pa.float64(), pa.float64()),
        (DECIMAL(5, 2), DECIMAL(10, 4), DECIMAL(10, 4)),
        (DECIMAL(5, 1), pa.int64(), DECIMAL(20, 1)),
        (DECIMAL(4, 1), pa.int8(), DECIMAL(4, 1)),
        (pa.decimal32(5, 0), DECIMAL(10, 2), DECIMAL(10, 2)),
        (pa.decimal32(9, 0), pa.decimal32(9, 9), pa.decimal64(18, 9)),
        (DECIMAL(38, 0), DECIMAL(38, 38), pa.decimal256(76, 38)),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.time32("s"), pa.time32("ms"), pa.time32("ms")),
        (pa.time32("ms"), pa.time64("ns"), pa.time64("ns")),
        (pa.duration("s"), pa.duration("us"), pa.duration("us")),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us", "UTC"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.string(), pa.binary(), pa.string()),
        (pa.binary(), pa.string(), pa.binary()),
        (pa.binary(2), pa.binary(3), pa.binary()),
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 2)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int16(), 2), pa.list_(pa.int16(), 2)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (pa.struct({"a": pa.int8()}), pa.struct({"b": pa.bool_()}), pa.struct({"a": pa.int8(), "b": pa.bool_()})),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int64())),
        (pa.json_(), pa.string(), pa.string()),
        (pa.uuid(), pa.binary(16), pa.binary(16)),
        (pa.uuid(), pa.uuid(), pa.uuid()),
        (pa.uuid(), pa.null(), pa.uuid()),
    ],
    ids=str,
)
def test_what_two_types_are_widened_to(leading: pa.DataType, other: pa.DataType, expected: pa.DataType) -> None:
    assert join(leading, other) == expected
    if {leading, other} != {pa.string(), pa.binary()}:  # there the leading one decides
        assert join(other, leading) == expected or pa.types.is_struct(expected)
    for source in (leading, other):
        assert refusal(source, expected) is None


APART = [
    pa.bool_(), pa.int64(), pa.date32(), pa.time64("us"), pa.duration("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"),
    pa.string(), pa.list_(pa.int64()), pa.map_(pa.string(), pa.int64()), pa.struct({"k": pa.int64()}), pa.uuid(), pa.bool8(),
    pa.month_day_nano_interval(), pa.fixed_shape_tensor(pa.int64(), [2]),
]  # fmt: skip


@pytest.mark.parametrize("first", range(len(APART)))
def test_kinds_of_values_have_nothing_in_common(first: int) -> None:
    """No bridge, neither bare nor inside list, map and struct."""
    for second, other in enumerate(APART):
        if first != second:
            for left, right in _pairs(APART[first], other):
                assert join(left, right) is None, (left, right)
                assert refusal(left, right), (left, right)


def _pairs(left: pa.DataType, right: pa.DataType) -> list[tuple[pa.DataType, pa.DataType]]:
    return [
        (left, right),
        (pa.list_(left), pa.list_(right)),
        (pa.list_(left, 3), pa.list_(right, 3)),
        (pa.struct({"a": left}), pa.struct({"a": right})),
        (pa.map_(pa.string(), left), pa.map_(pa.string(), right)),
        (pa.struct({"a": pa.list_(left), "b": pa.int8()}), pa.struct({"a": pa.list_(right)})),
    ]


def test_decimals_and_floats_have_nothing_in_common() -> None:
    for left, right in _pairs(DECIMAL(5, 1), pa.float64()):
        assert join(left, right) is None
        assert refusal(left, right)
        assert refusal(right, left)


def test_decimals_beyond_76_digits_have_no_common_type() -> None:
    assert join(pa.decimal256(76, 0), pa.decimal256(76, 76)) is None


def test_one_type_for_many_objects() -> None:
    assert unify([pa.string(), pa.binary(), pa.string()]) == (pa.string(), set())
    assert unify([pa.int64(), pa.string(), pa.string()]) == (pa.string(), {pa.int64()})
    assert unify([pa.int64(), pa.float64(), pa.bool_()]) == (pa.float64(), {pa.bool_()})
    assert unify([pa.null()]) == (pa.string(), set())
    assert unify([pa.int64()], [pa.string()] * 3) == (pa.int64(), {pa.string()}), "a sample does not lead a footer"
    assert unify([pa.int64()], [pa.float64()]) == (pa.float64(), set())


def test_encodings_are_left_out_and_marks_stay() -> None:
    nested = pa.list_(pa.field("item", pa.dictionary(pa.int8(), pa.large_string())))
    assert output_type(pa.map_(pa.string_view(), nested)) == pa.map_(pa.string(), pa.list_(pa.string()))
    assert output_type(pa.large_list(pa.binary_view())) == pa.list_(pa.binary())
    assert output_type(pa.list_(pa.uuid())) == pa.list_(pa.uuid())
    assert output_type(pa.list_(pa.timestamp("s", "UTC"))) == pa.list_(pa.timestamp("ms", "UTC"))
    assert output_type(pa.run_end_encoded(pa.int32(), pa.float16())) == pa.float16()


def test_what_a_user_states_may_be_narrower() -> None:
    """Each value decides then."""
    assert refusal(pa.int64(), pa.int8()) is None
    assert refusal(pa.float64(), pa.int64()) is None
    assert refusal(DECIMAL(10, 2), pa.int64()) is None
    assert refusal(pa.timestamp("ns"), pa.timestamp("s")) is None
    assert refusal(pa.list_(pa.int8()), pa.list_(pa.int8(), 2)) is None
    assert refusal(pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3))
    assert "has fields that" in str(refusal(pa.struct({"a": pa.int8(), "b": pa.int8()}), pa.struct({"a": pa.int8()})))

"""Types inside types, by what pyarrow itself makes of them."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from workers.reading.notation import array_of
from workers.reading.typed.nested import map_type
from workers.reading.widening import output_type

ID = uuid.UUID(int=7)


def as_bytes(kind: pa.DataType) -> pa.DataType:
    return pa.binary() if kind == pa.string() else kind


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.string(), pa.binary()),
        (pa.list_(pa.string()), pa.list_(pa.binary())),
        (pa.large_list(pa.string()), pa.large_list(pa.binary())),
        (pa.list_(pa.string(), 3), pa.list_(pa.binary(), 3)),
        (pa.list_view(pa.string()), pa.list_view(pa.binary())),
        (pa.map_(pa.string(), pa.list_(pa.string())), pa.map_(pa.binary(), pa.list_(pa.binary()))),
        (
            pa.struct([pa.field("a", pa.string(), nullable=False), pa.field("b", pa.int8())]),
            pa.struct([pa.field("a", pa.binary(), nullable=False), pa.field("b", pa.int8())]),
        ),
        (pa.uuid(), pa.uuid()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.string())),  # for the leaf to look into
    ],
)
def test_every_kind_of_nesting(kind: pa.DataType, expected: pa.DataType) -> None:
    assert map_type(kind, as_bytes) == expected
    assert map_type(kind, lambda inner: inner) == kind


def test_what_a_leaf_returns_is_entered() -> None:
    inner = pa.dictionary(pa.int8(), pa.large_list(pa.dictionary(pa.int8(), pa.large_string())))
    assert output_type(pa.large_list(inner)) == pa.list_(pa.list_(pa.string()))


@pytest.mark.parametrize(
    ("target", "value", "plain"),
    [
        (pa.list_(pa.uuid(), 2), [ID.bytes, ID.bytes], [ID, ID]),
        (pa.large_list(pa.uuid()), [ID.bytes], [ID]),
        (pa.map_(pa.uuid(), pa.int64()), [(ID.bytes, 1)], [(ID, 1)]),
        (pa.list_(pa.struct([("a", pa.list_(pa.uuid(), 1))])), [{"a": [ID.bytes]}], [{"a": [ID]}]),
    ],
)
def test_marks_in_lists_of_any_kind_and_in_keys(target: pa.DataType, value: object, plain: object) -> None:
    """pyarrow makes no extension values: they are made as their storage first."""
    made = array_of([value, None], target)
    assert made.type == target
    assert made.to_pylist() == [plain, None]

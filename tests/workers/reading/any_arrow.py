"""Random Arrow types and values, and what a value means: an oracle in plain Python, without Arrow's casts.

types            a strategy of types, nested ones included; `pairs` prefers two that are alike
arrays           a strategy of arrays of one type, rich in edges
meaning          a scalar -> (kind, exact value): equal for values that are the same in another type
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.types as pt
from hypothesis import strategies as st

UNITS = ("s", "ms", "us", "ns")
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DAY = 86_400
INTEGERS = [make() for make in (pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64)]
LEAVES = [
    *INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null(),
    pa.decimal128(5, 1), pa.decimal128(5, 2), pa.decimal128(25, 1), pa.decimal128(38, 0), pa.decimal128(38, 38),
    pa.decimal256(60, 10), pa.decimal32(9, 2), pa.decimal64(18, 0),
    pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2), pa.binary(3),
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    *[pa.duration(unit) for unit in UNITS], *[pa.timestamp(unit) for unit in UNITS],
    *[pa.timestamp(unit, zone) for unit in UNITS for zone in ("UTC", "Europe/Berlin")],
    pa.uuid(), pa.bool8(), pa.json_(), pa.fixed_shape_tensor(pa.float32(), [2]),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.int64()),
]  # fmt: skip
FAMILIES = [
    [kind for kind in LEAVES if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind)],
    [kind for kind in LEAVES if pt.is_temporal(kind)],
    [kind for kind in LEAVES if "string" in str(kind) or "binary" in str(kind) or "extension" in str(kind)],
    LEAVES,
]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[pa.DataType, pa.DataType]:
    """Two types: mostly of one shape with leaves of one family, sometimes anything."""
    if draw(st.integers(0, 5)) == 0:
        return draw(types()), draw(types())
    leaves = [draw(st.sampled_from(draw(st.sampled_from(FAMILIES)))) for _ in range(1)]
    family = next(family for family in FAMILIES if leaves[0] in family)
    leaves.append(draw(st.sampled_from(family)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        leaves = _wrapped(draw, leaves)
    return leaves[0], leaves[1]


def _wrapped(draw: st.DrawFn, leaves: list[pa.DataType]) -> list[pa.DataType]:
    shape = draw(st.sampled_from(["list", "lists", "sized", "struct", "structs", "map"]))
    first, second = leaves
    if shape == "list":
        return [pa.list_(first), pa.list_(second)]
    if shape == "lists":
        return [pa.large_list(first), pa.list_(second, 2)]
    if shape == "sized":
        return [pa.list_(first, 2), pa.list_(second, 2)]
    if shape == "struct":
        return [pa.struct({"a": first, "b": pa.string()}), pa.struct({"b": pa.string(), "a": second})]
    if shape == "structs":
        return [pa.struct({"a": first}), pa.struct({"a": second, "c": pa.int8()})]
    return [pa.map_(pa.string(), first), pa.map_(pa.string(), second)]


def types() -> st.SearchStrategy[pa.DataType]:
    return st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.one_of(
            inner.map(pa.list_),
            inner.map(lambda kind: pa.list_(kind, 2)),
            inner.map(lambda kind: pa.map_(pa.string(), kind)),
            st.lists(inner, min_size=1, max_size=2).map(lambda kinds: pa.struct(list(zip("ab", kinds, strict=False)))),
        ),
        max_leaves=3,
    )


@st.composite
def arrays(draw: st.DrawFn, kind: pa.DataType, rows: int) -> pa.Array:
    return _array(kind, draw(st.lists(_values(kind), min_size=rows, max_size=rows)))


def _array(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """From raw values: numbers for whatever is stored as a number."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _array(kind.storage_type, values))
    if pt.is_dictionary(kind):
        return _array(kind.value_type, values).dictionary_encode().cast(kind)
    mask = pa.array([value is None for value in values], pa.bool_())
    if pt.is_struct(kind):
        columns = [
            _array(field.type, [None if value is None else value[at] for value in values]) for at, field in enumerate(kind)
        ]
        return pa.StructArray.from_arrays(columns, fields=list(kind), mask=mask)
    flat = [item for value in values if value is not None for item in value] if pt.is_nested(kind) else []
    starts = [0]
    for value in values if pt.is_nested(kind) else []:
        starts.append(starts[-1] + (0 if value is None else len(value)))
    if pt.is_fixed_size_list(kind):
        filled = [item for value in values for item in ([None] * kind.list_size if value is None else value)]
        return pa.FixedSizeListArray.from_arrays(_array(kind.value_type, filled), type=kind, mask=mask)
    if pt.is_map(kind):
        keys, items = _array(kind.key_type, [key for key, _ in flat]), _array(kind.item_type, [item for _, item in flat])
        return pa.MapArray.from_arrays(pa.array(starts, pa.int32()), keys, items, type=kind, mask=mask)
    if pt.is_large_list(kind):
        return pa.LargeListArray.from_arrays(
            pa.array(starts, pa.int64()), _array(kind.value_type, flat), type=kind, mask=mask
        )
    if pt.is_list(kind):
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), _array(kind.value_type, flat), type=kind, mask=mask)
    return pa.array(values, kind)


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), _present(kind)) if not pt.is_null(kind) else st.none()


def _present(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if isinstance(kind, pa.UuidType):
        return st.binary(min_size=16, max_size=16)
    if isinstance(kind, pa.JsonType):
        return st.sampled_from(['{"a": 1}', "[]", '"x"', "true"])
    if isinstance(kind, pa.Bool8Type):
        return st.sampled_from([0, 1])
    if isinstance(kind, pa.BaseExtensionType):
        return _present(kind.storage_type)
    if pt.is_dictionary(kind):
        return _present(kind.value_type)
    if pt.is_struct(kind):
        return st.tuples(*[_values(field.type) for field in kind])
    if pt.is_map(kind):
        entries = st.tuples(st.text(max_size=3), _values(kind.item_type))
        return st.lists(entries, max_size=2, unique_by=lambda entry: entry[0])
    if pt.is_nested(kind):
        size = kind.list_size if pt.is_fixed_size_list(kind) else None
        return st.lists(_values(kind.value_type), min_size=size or 0, max_size=2 if size is None else size)
    if pt.is_boolean(kind):
        return st.booleans()
    if pt.is_integer(kind):
        bits = kind.bit_width
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pt.is_signed_integer(kind) else (0, 2**bits - 1)
        edges = [edge for base in (0, 2**8, 2**11, 2**24, 2**53, 2**62, high) for edge in (base - 1, base, base + 1, -base)]
        return st.one_of(st.sampled_from([edge for edge in edges if low <= edge <= high]), st.integers(low, high))
    if pt.is_floating(kind):
        return st.floats(width=kind.bit_width)
    if pt.is_decimal(kind):
        most = 10**kind.precision - 1
        return st.one_of(st.integers(-most, most), st.integers(-999, 999).filter(lambda number: abs(number) <= most)).map(
            lambda number: Decimal((number < 0, tuple(map(int, str(abs(number)))), -kind.scale))
        )
    if pt.is_fixed_size_binary(kind):
        return st.binary(min_size=kind.byte_width, max_size=kind.byte_width)
    if "binary" in str(kind):
        return st.one_of(st.binary(max_size=6), st.text(max_size=4).map(str.encode))
    if "string" in str(kind):
        return st.one_of(st.text(max_size=6), st.sampled_from(["", "007", "true", "1", "2024-01-01", "nul \0"]))
    if pt.is_date(kind):
        days = st.one_of(st.integers(-719_162, 2_932_896), st.sampled_from([0, 1, -(2**31), 2**31 - 1]))
        return days if pt.is_date32(kind) else days.map(lambda day: day * DAY * 1000)
    if pt.is_time(kind):
        return st.integers(0, DAY * 10**9 // NANOSECONDS[kind.unit] - 1)
    if pt.is_temporal(kind):
        years = DAY * 366 * 9999 * 10**9 // NANOSECONDS[kind.unit]
        edges = [0, 1, -1, 2**62, -(2**62), 2**63 - 1, 253_402_300_799 * 10**9 // NANOSECONDS[kind.unit]]
        far = min(years, 2**63 - 1)
        return st.one_of(st.integers(-far, far), st.sampled_from([edge for edge in edges if abs(edge) < 2**63]))
    raise TypeError(kind)


def meaning(scalar: pa.Scalar) -> Any:
    """What the value is, whatever holds it. Fields of a struct that are null say as much as fields that are not there."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        told = meaning(scalar.value)
        return told if isinstance(kind, pa.UuidType | pa.JsonType) else (kind.extension_name, told)
    if pt.is_dictionary(kind):
        return meaning(scalar.value)
    if pt.is_struct(kind):
        fields = {name: meaning(scalar[name]) for name in kind.names}
        return "struct", tuple(sorted((name, value) for name, value in fields.items() if value is not None))
    if pt.is_map(kind):
        entries = scalar.values
        return "map", tuple((meaning(entry["key"]), meaning(entry["value"])) for entry in entries)
    if pt.is_nested(kind):
        return "list", tuple(meaning(item) for item in scalar.values)
    if pt.is_boolean(kind):
        return "boolean", scalar.as_py()
    if pt.is_integer(kind) or pt.is_decimal(kind):
        return "number", Fraction(scalar.as_py())
    if pt.is_floating(kind):
        value = float(scalar.as_py())
        return "number", Fraction(value) if math.isfinite(value) else repr(value)
    if "string" in str(kind):
        return "octets", scalar.as_py().encode()
    if "binary" in str(kind):
        return "octets", scalar.as_py()
    if pt.is_date(kind):
        return "date", scalar.value * (DAY * 1000 if pt.is_date32(kind) else 1)
    if pt.is_temporal(kind):
        what = "time" if pt.is_time(kind) else "duration" if pt.is_duration(kind) else "instant" if kind.tz else "timestamp"
        return what, scalar.value * NANOSECONDS[kind.unit]
    raise TypeError(kind)


class ThisProcess:
    """In place of the isolated process that parses footers: these are whole."""

    def __enter__(self) -> ThisProcess:
        return self

    def __exit__(self, *error: object) -> None: ...

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

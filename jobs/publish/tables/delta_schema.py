"""Arrow columns as a Delta table's schema.

Types and their names: the Delta protocol, "Schema Serialization Format". What Delta has no type for is refused by name:
unsigned integers (so also bits packed into bytes), half floats, times, durations, nanoseconds, decimals of more than 38
digits. Names that need column mapping are refused too: the parts have no field ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.errors import UsageError

TIMESTAMP_NTZ = "timestampNtz"  # the table feature of timestamps without a zone
_MOST_DIGITS = 38
_NAMES = {
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.date64(): "date",
}
_FORBIDDEN = " ,;{}()\n\t="
_MEND = "leave output.table out, or that column"


def delta_schema(schema: pa.Schema) -> str:
    """The `schemaString` of a table with these columns.

    Raises:
        UsageError: a column of another type, or whose name Delta does not allow.
    """
    _refuse_names(schema.names)
    return json.dumps({"type": "struct", "fields": [_field(each, each.name) for each in schema]}, ensure_ascii=False)


def needs_timestamp_ntz(schema: pa.Schema) -> bool:
    """Whether a column, at any depth, holds timestamps without a zone."""
    return any(_has_ntz(each.type) for each in schema)


def refuse_partitions(schema: pa.Schema, partition_by: Sequence[str]) -> None:
    """Raises: UsageError: a column whose values have another notation in Delta's log than in the names of folders."""
    for name in partition_by:
        kind = schema.field(name).type
        plain = (pt.is_string, pt.is_large_string, pt.is_signed_integer, pt.is_boolean, pt.is_date, pt.is_decimal)
        if not any(test(kind) for test in plain):
            raise UsageError(f"output.table: delta: output.partition_by {name} is {kind}, which is no type of a partition")


def _refuse_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if any(char in name for char in _FORBIDDEN):
            raise UsageError(f"output.table: delta allows no {_FORBIDDEN!r} in the name of column {name!r}; {_MEND}")
        if name.lower() in seen:
            raise UsageError(
                f"output.table: delta: columns {seen[name.lower()]} and {name} differ in the case of letters alone, and "
                f"Delta takes them for one; {_MEND}"
            )
        seen[name.lower()] = name


def _field(field: pa.Field, column: str) -> dict[str, Any]:
    return {"name": field.name, "type": _type(field.type, column), "nullable": field.nullable, "metadata": {}}


def _type(kind: pa.DataType, column: str) -> str | dict[str, Any]:
    if kind in _NAMES:
        return _NAMES[kind]
    if pt.is_string(kind) or pt.is_large_string(kind):
        return "string"
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind):
        return "binary"
    if pt.is_decimal(kind) and kind.precision <= _MOST_DIGITS and 0 <= kind.scale <= kind.precision:
        return f"decimal({kind.precision},{kind.scale})"
    if pt.is_timestamp(kind) and kind.unit in ("ms", "us"):
        return "timestamp_ntz" if kind.tz is None else "timestamp"
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        element = kind.value_field
        return {"type": "array", "elementType": _type(element.type, column), "containsNull": element.nullable}
    if pt.is_map(kind):
        return {
            "type": "map",
            "keyType": _type(kind.key_type, column),
            "valueType": _type(kind.item_type, column),
            "valueContainsNull": kind.item_field.nullable,
        }
    if pt.is_struct(kind):
        inner = [kind.field(number) for number in range(kind.num_fields)]
        _refuse_names([each.name for each in inner])
        return {"type": "struct", "fields": [_field(each, column) for each in inner]}
    raise UsageError(f"output.table: delta has no type for column {column} ({kind}); {_MEND}")


def _has_ntz(kind: pa.DataType) -> bool:
    if pt.is_timestamp(kind):
        return kind.tz is None
    return any(_has_ntz(kind.field(number).type) for number in range(kind.num_fields))

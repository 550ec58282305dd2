"""JSON values (as Python's json parses them) -> one Arrow column, or a reason for each value that does not fit.

Which value fits which type, and in which notation, is workers/reading/notation.py's. Here columns of one kind are converted
at once, as most are, and the others value by value.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column
from workers.reading.notation import MISFITS, UnknownKey, column_of, from_json
from workers.reading.typed.type_names import shown_type
from workers.storage.uris import is_utf8

SURROGATE = " is not valid Unicode (half of a surrogate pair)"
_KINDS = {"str": "string", "dict": "object", "list": "array", "NoneType": "null", "bool": "boolean", "float": "number"}
_NULL = type(None)


def kind_of(value: Any) -> str:
    """The JSON kind of a parsed value: string, number, boolean, null, array or object."""
    name = type(value).__name__
    return _KINDS.get(name, "number" if name == "int" else name)


def json_column(values: list[Any], target: pa.DataType) -> Column:
    """The values as a column of type `target`, null where one does not fit; and the reasons by place, each as what follows
    the column's name."""
    if _as_they_are(values, target):
        with contextlib.suppress(*MISFITS):  # the whole column at once
            return pa.array(values, target), {}
    return column_of(
        values,
        target,
        lambda value: from_json(value, target),
        lambda value, error: f": {error}" if isinstance(error, UnknownKey) else _misfit(value, target),
    )


def _as_they_are(values: Sequence[Any], target: pa.DataType) -> bool:
    """Whether the kinds of all values are those of the type, so that pa.array makes a column of them or refuses them."""
    kinds = set(map(type, values))
    if pt.is_list(target):
        return kinds <= {list, _NULL} and _as_they_are(
            [item for value in values if value for item in value], target.value_type
        )
    if pt.is_struct(target):
        names, objects = set(target.names), [value for value in values if value]
        return (
            kinds <= {dict, _NULL}
            and all(map(names.issuperset, objects))
            and all(_as_they_are([value.get(field.name) for value in objects], field.type) for field in target.fields)
        )
    return kinds <= _flat_kinds(target)


def _flat_kinds(target: pa.DataType) -> set[type]:
    """The kinds of values that a type has which is not nested; none: its values are converted one by one."""
    if pt.is_string(target) or pt.is_large_string(target):
        return {str, _NULL}
    if pt.is_integer(target):
        return {int, _NULL}
    if pt.is_float64(target):
        return {int, float, _NULL}
    return {bool, _NULL} if pt.is_boolean(target) else set()


def _misfit(value: Any, target: pa.DataType) -> str:
    with contextlib.suppress(RecursionError):
        if not is_utf8(json.dumps(value, ensure_ascii=False)):
            return SURROGATE
    return f": a value of type {kind_of(value)} does not fit {shown_type(target)}"

"""JSON values (as Python's json parses them) -> one Arrow column, or a reason for each value that does not fit.

    values -> fit: each value in the form that pyarrow takes -> one array, cast to the target

Nothing is bent to fit: numbers, booleans, strings, dates and times are not made of one another. What may change is the
writing alone: an integer in a column of floats where it is exact, 3.0 in a column of integers, a string that is a date in a
column of dates, any value in a column of JSON text.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import itertools
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column
from workers.reading.type_names import JSON, shown_type

# What pa.array raises for a value of another kind, and json.dumps for one that is nested as deeply as json.loads allows
MISFITS = (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError)
SURROGATE = " is not valid Unicode (half of a surrogate pair)"
_KINDS = {"str": "string", "dict": "object", "list": "array", "NoneType": "null", "bool": "boolean", "float": "number"}
_NULL = type(None)
_EXACT = 1 << 53  # integers up to here are floats without loss
_SHOWN = 40  # characters of a key in a reason


class Misfit(TypeError):
    """A value that does not fit; says how, as what follows the column's name."""


def kind_of(value: Any) -> str:
    """The JSON kind of a parsed value: string, number, boolean, null, array or object."""
    name = type(value).__name__
    return _KINDS.get(name, "number" if name == "int" else name)


def encodes(value: str) -> bool:
    """Whether a string is valid Unicode: JSON can hold half of a surrogate pair, UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_column(values: list[Any], target: pa.DataType) -> Column:
    """The values as a column of type `target`, null where one does not fit; and the reasons by place."""
    if set(map(type, values)) <= _flat_kinds(target):
        with contextlib.suppress(*MISFITS):  # the whole column at once
            return pa.array(values, target), {}
    fitted: list[Any] = []
    bad: dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            fitted.append(_fit(value, target))
        except MISFITS as error:
            fitted.append(None)
            bad[place] = str(error) if isinstance(error, Misfit) else misfit(value, target)
    with contextlib.suppress(*MISFITS):
        return _build(fitted, target), bad
    parts: list[pa.Array] = []
    for place, value in enumerate(fitted):
        try:
            parts.append(_build([value], target))
        except MISFITS:
            parts.append(pa.nulls(1, target))
            bad[place] = misfit(values[place], target)
    return pa.concat_arrays(parts), bad


def _flat_kinds(target: pa.DataType) -> set[type]:
    """The kinds of values of which pa.array makes a column of this type as they are, or refuses them."""
    if pt.is_string(target) or pt.is_large_string(target):
        return {str, _NULL}
    if pt.is_integer(target):
        return {int, _NULL}
    if pt.is_float64(target):
        return {int, float, _NULL}
    return {bool, _NULL} if pt.is_boolean(target) else set()


def misfit(value: Any, target: pa.DataType) -> str:
    """How the value does not fit, as what follows the column's name."""
    if isinstance(value, str) and not encodes(value):
        return SURROGATE
    return f": a value of type {kind_of(value)} does not fit {shown_type(target)}"


def _fit(value: Any, target: pa.DataType) -> Any:
    """The value in the form that `_build` takes. Raises: one of MISFITS: it does not fit without loss."""
    if value is None:
        return None
    if target == JSON:
        return _as_json(value)
    if pt.is_struct(target):
        return _fit_struct(value, target)
    if pt.is_map(target):
        _require(value, target, dict)
        return [(key, _fit(item, target.item_type)) for key, item in value.items()]
    if pt.is_nested(target):
        _require(value, target, list)
        return [_fit(item, target.value_type) for item in value]
    for holds, fit in _SCALARS:
        if holds(target):
            return fit(value, target)
    _require(value, target, str)  # strings and bytes; and dates and timestamps, which Arrow's cast reads
    return value


def _require(value: Any, target: pa.DataType, *kinds: type) -> None:
    """Exactly one of the kinds: a bool is no int here."""
    if type(value) not in kinds:
        raise Misfit(misfit(value, target))


def _as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not encodes(text):
        raise Misfit(SURROGATE)
    return text


def _fit_struct(value: Any, target: pa.DataType) -> dict[str, Any]:
    _require(value, target, dict)
    known = {field.name: field.type for field in target.fields}
    for key in value:
        if key not in known:
            shown = key.encode("utf-8", "backslashreplace").decode()
            shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
            raise Misfit(f": an object has the key {shown!r}, which {shown_type(target)} has not")
    return {key: _fit(item, known[key]) for key, item in value.items()}


def _fit_integer(value: Any, target: pa.DataType) -> int:
    _require(value, target, int, float)
    if isinstance(value, float) and not value.is_integer():
        raise Misfit(misfit(value, target))
    return int(value)


def _fit_float(value: Any, target: pa.DataType) -> float:
    _require(value, target, int, float)
    number = float(value)
    if type(value) is int and abs(value) > _EXACT and int(number) != value:
        raise Misfit(f": the integer is not exact as {shown_type(target)}")
    return number


def _fit_boolean(value: Any, target: pa.DataType) -> bool:
    _require(value, target, bool)
    return bool(value)


def _fit_decimal(value: Any, target: pa.DataType) -> decimal.Decimal:
    _require(value, target, int, float, str)
    number = decimal.Decimal(repr(value) if isinstance(value, float) else value)
    if not number.is_finite():
        raise Misfit(misfit(value, target))
    return number


def _fit_time(value: Any, target: pa.DataType) -> datetime.time:
    _require(value, target, str)
    time = datetime.time.fromisoformat(value)
    if time.tzinfo is not None:
        raise Misfit(f": a time with a zone does not fit {shown_type(target)}")
    return time


_SCALARS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, pa.DataType], Any]], ...] = (
    (pt.is_integer, _fit_integer),
    (pt.is_floating, _fit_float),
    (pt.is_boolean, _fit_boolean),
    (pt.is_decimal, _fit_decimal),
    (pt.is_time, _fit_time),
)


def _build(fitted: list[Any], target: pa.DataType) -> pa.Array:
    """One array. Nested columns that need a cast inside are put together from their parts: what pyarrow leaves below a null
    is no null, and cannot be cast."""
    built = _built_type(target)
    if built == target:
        return pa.array(fitted, target)
    missing = pa.array([value is None for value in fitted], pa.bool_())
    if pt.is_struct(target):
        parts = [_build([value and value.get(field.name) for value in fitted], field.type) for field in target.fields]
        return pa.StructArray.from_arrays(parts, fields=list(target.fields), mask=missing)
    if pt.is_map(target) or pt.is_list(target):
        ends = itertools.accumulate((len(value or ()) for value in fitted), initial=0)
        offsets, items = pa.array(ends, pa.int32()), [item for value in fitted for item in value or ()]
        if pt.is_list(target):
            return pa.ListArray.from_arrays(offsets, _build(items, target.value_type), type=target, mask=missing)
        keys, values = pa.array([key for key, _ in items], pa.string()), [value for _, value in items]
        return pa.MapArray.from_arrays(offsets, keys, _build(values, target.item_type), type=target, mask=missing)
    return pa.array(fitted, built).cast(target)


def _built_type(target: pa.DataType) -> pa.DataType:
    """The type of which pa.array makes a column of fitted values; what it is cast from to become `target`."""
    if target == JSON or pt.is_date(target) or pt.is_timestamp(target) or pt.is_duration(target):
        return pa.string()
    if pt.is_time(target):
        return pa.time64("us")
    if pt.is_struct(target):
        return pa.struct([field.with_type(_built_type(field.type)) for field in target.fields])
    if pt.is_map(target):
        return pa.map_(target.key_type, _built_type(target.item_type))
    return pa.list_(_built_type(target.value_type)) if pt.is_list(target) else target

"""Values as JSON, CSV and folder names write them -> values of a column whose type is settled, or none at all.

    from_json       a JSON value -> what pyarrow takes for the type; a value of another kind is refused
    from_text       a CSV cell or a folder's value -> the same
    text_refusal    why no text can be a value of a type
    text_column_of  texts -> an Arrow column, and the places of those that are no values
    column_of       the same for any values and their conversion

JSON has strings, numbers and booleans. A column of these kinds takes them alone: true is not 1, "7" is not 7. What JSON
has no kind for is read from strings in one notation each, and from nothing else:

    date                 2024-02-29
    timestamp            2024-02-29T23:59:00, or with a space; fractions as fine as the type's unit; no zone
    timestamp with zone  the same with Z or +02:00
    time                 23:59:00
    decimal              12.50 (or a JSON number without a fraction; one with a fraction was a double before it came here)
    bytes                the string's UTF-8
    UUID                 8-4-4-4-12 hexadecimal digits

CSV and folder names have texts only: numbers are written there as in JSON ('007' and ' 7' are texts that are no numbers),
booleans true and false in any case. A text becomes a double where it has at most the 17 digits that tell doubles apart (9
for float32, 5 for float16), or is one exactly; an integer becomes a float where the float is that integer.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from workers.reading.typed.nested import map_type
from workers.reading.typed.type_names import shown_name, shown_type
from workers.reading.widening import Family, family

MISFITS = (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError)
"""What these functions and pa.array raise for a value of another kind."""


class UnknownKey(TypeError):
    """An object has a key that the struct lacks; says which."""


_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_UNUSUAL = re.compile(r"nan|[+-]?inf(inity)?", re.IGNORECASE)
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
_TEMPORAL = {
    Family.DATE: re.compile(_DATE),
    Family.TIME: re.compile(_TIME),
    Family.TIMESTAMP: re.compile(f"{_DATE}[T ]{_TIME}"),
    Family.INSTANT: re.compile(f"{_DATE}[T ]{_TIME}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})"),
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS = {16: 5, 32: 9, 64: 17}  # bits of a float -> significant digits that tell its values apart
_FLOATS: dict[int, Callable[[str], Any]] = {16: np.float16, 32: np.float32, 64: np.float64}
_WHOLE = 2.0**53  # up to here a double that is an integer was written as that integer
_WRITTEN_AS_TEXT = frozenset(
    {Family.STRING, Family.BYTES, Family.BOOLEAN, Family.INTEGER, Family.FLOAT, Family.DECIMAL, *_TEMPORAL}
)


def text_refusal(target: pa.DataType) -> str | None:
    """Why no text can be a value of this type; None where each text decides."""
    if isinstance(target, pa.UuidType | pa.JsonType) or family(target) in _WRITTEN_AS_TEXT:
        return None
    return f"string cannot become {target}"


def text_column_of(texts: pa.Array, target: pa.DataType, label: str) -> tuple[pa.Array, dict[int, str]]:
    """Texts (string or large_string; null stays null) as values of the type; {place: reason} of those that are none."""
    if family(target) is Family.STRING:
        return texts.cast(target), {}
    return column_of(
        texts.to_pylist(),
        target,
        lambda text: from_text(text, target),
        lambda _value, _error: misfit(label, "string", target),
    )


def column_of(
    values: Sequence[Any], target: pa.DataType, convert: Callable[[Any], Any], reason: Callable[[Any, Exception], str]
) -> tuple[pa.Array, dict[int, str]]:
    """Values by `convert` (one of MISFITS: it is none) as an array, and {place: reason} of those that do not fit."""
    converted: list[Any] = []
    bad: dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            converted.append(None if value is None else convert(value))
        except MISFITS as error:
            converted.append(None)
            bad[place] = reason(value, error)
    with contextlib.suppress(*MISFITS):
        return array_of(converted, target), bad
    parts: list[pa.Array] = []
    for place, value in enumerate(converted):
        try:
            parts.append(array_of([value], target))
        except MISFITS as error:
            parts.append(pa.nulls(1, target))
            bad[place] = reason(values[place], error)
    return pa.concat_arrays(parts), bad


def misfit(label: str, kind: str, target: pa.DataType) -> str:
    """The reason of a row whose value does not fit."""
    return f"{label}: a value of type {kind} does not fit {target}"


def array_of(values: Sequence[Any], target: pa.DataType) -> pa.Array:
    """What from_json and from_text returned, as an array. Raises: one of MISFITS."""
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, array_of(values, target.storage_type))
    stored = _stored_type(target)
    return pa.array(values, target) if stored == target else pa.array(values, stored).cast(target)


def _stored_type(target: pa.DataType) -> pa.DataType:
    """Without the extension types inside, of which pa.array makes no values."""
    return map_type(target, lambda kind: kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind)


def from_text(text: str, target: pa.DataType) -> Any:
    """Raises: TypeError, ValueError, pa.ArrowInvalid: the text is no value of this type, or not exactly."""
    match family(target):
        case Family.BOOLEAN:
            if text.lower() not in ("true", "false"):
                raise ValueError("not true or false")
            return text.lower() == "true"
        case Family.INTEGER:
            if not _INTEGER.fullmatch(text):
                raise ValueError("not an integer")
            return int(text)
        case Family.FLOAT:
            if _UNUSUAL.fullmatch(text):
                return float(text)
            if not _NUMBER.fullmatch(text):
                raise ValueError("not a number")
            return _float(text, target)
        case Family.EXTENSION if isinstance(target, pa.JsonType):
            json.loads(text)
            return text
        case _:
            return _from_string(text, target)


def from_json(value: Any, target: pa.DataType) -> Any:
    """Raises: TypeError, ValueError, pa.ArrowInvalid: the value is of another kind, or not held exactly."""
    if value is None:
        return None
    kind = family(target)
    if isinstance(value, bool):
        if kind is Family.BOOLEAN or isinstance(target, pa.Bool8Type):
            return value if kind is Family.BOOLEAN else int(value)
        if not isinstance(target, pa.JsonType):
            raise TypeError("a boolean")
    match kind:
        case Family.STRING:
            if not isinstance(value, str):
                raise TypeError("not a string")
            return value
        case Family.EXTENSION:
            return _extension(value, target)
        case Family.INTEGER:
            if not isinstance(value, int) and not (isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE):
                raise TypeError("not an integer")
            return int(value)
        case Family.FLOAT:
            if not isinstance(value, int | float):
                raise TypeError("not a number")
            as_written = isinstance(value, float) and (target.bit_width == 64 or not math.isfinite(value))
            return value if as_written else _float(repr(value), target)
        case Family.DECIMAL if isinstance(value, int):
            return Decimal(value)
        case Family.STRUCT:
            known = {field.name: field.type for field in target.fields}
            if not isinstance(value, dict):
                raise TypeError("not an object")
            for key in [key for key in value if key not in known]:
                raise UnknownKey(f"an object has the key '{shown_name(key)}', which {shown_type(target)} has not")
            return {key: from_json(item, known[key]) for key, item in value.items()}
        case Family.MAP:
            if not isinstance(value, dict):
                raise TypeError("not an object")
            return [(from_text(key, target.key_type), from_json(item, target.item_type)) for key, item in value.items()]
        case Family.LIST:
            if not isinstance(value, list):
                raise TypeError("not an array")
            return [from_json(item, target.value_type) for item in value]
        case _:
            if not isinstance(value, str):
                raise TypeError("not a string")
            return _from_string(value, target)


def _extension(value: Any, target: pa.BaseExtensionType) -> Any:
    if isinstance(target, pa.JsonType):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(target, pa.UuidType):
        if not isinstance(value, str):
            raise TypeError("not a string")
        return _from_string(value, target)
    if isinstance(target, pa.Bool8Type):
        raise TypeError("not a boolean")
    return from_json(value, target.storage_type)


def _from_string(text: str, target: pa.DataType) -> Any:
    """What has no kind of its own in JSON and CSV."""
    if isinstance(target, pa.UuidType):
        if not _UUID.fullmatch(text):
            raise ValueError("not a UUID")
        return uuid.UUID(text).bytes
    kind = family(target)
    if kind is Family.STRING:
        return text
    if kind is Family.BYTES:
        return text.encode()
    if kind is Family.DECIMAL:
        if not _NUMBER.fullmatch(text):
            raise ValueError("not a number")
        try:
            return Decimal(text)
        except InvalidOperation:
            raise ValueError("not a decimal") from None
    if kind not in _TEMPORAL or not _TEMPORAL[kind].fullmatch(text):
        raise ValueError("not the notation of this type")
    if kind is Family.TIME:  # which Arrow does not parse alone
        text, target = f"1970-01-01T{text}", pa.timestamp(target.unit)
    return pa.scalar(text, pa.string()).cast(target).value  # in the type's unit; pyarrow takes that for the type


def _float(text: str, target: pa.DataType) -> float:
    """The float that a number's notation means."""
    with np.errstate(over="ignore"):
        found = float(_FLOATS[target.bit_width](text))
    if not math.isfinite(found):
        raise ValueError("beyond the type's range")
    written, exact = Decimal(text), Decimal(found)
    whole = "e" not in text.lower() and written == written.to_integral_value()
    if written != exact and (whole or len(written.normalize().as_tuple().digits) > _DIGITS[target.bit_width]):
        raise ValueError("more digits than the type holds")
    return found

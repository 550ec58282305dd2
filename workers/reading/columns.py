"""Arrow columns of a source -> the types of the run's schema; values that do not fit are named, row by row.

    text_column    any string or binary type -> large_string, valid UTF-8
    id_column      any scalar type -> plan.id_type
    kept_column    any type -> its type in plan.keep, each value as it is or not at all (workers/reading/exact.py)

Each returns the column with nulls where a value is bad, and {place: reason}. Knows nothing of files; what a type can never
become is said beforehand by `id_refusal` and by workers/reading/widening.py:refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.exact import decoded, plain, settled
from workers.reading.widening import Family, decoded_type, family, refusal

Column = tuple[pa.Array, dict[int, str]]


def plain_type(source: pa.DataType) -> pa.DataType:
    """Type of values without dictionary, run-end or extension encoding around them."""
    source = decoded_type(source)
    return plain_type(source.storage_type) if isinstance(source, pa.BaseExtensionType) else source


def is_text(source: pa.DataType) -> bool:
    """Whether values of this type can be texts: any string or binary, encoded or not, or all null."""
    return family(plain_type(source)) in (Family.STRING, Family.BYTES, Family.NULL)


def id_refusal(source: pa.DataType, id_type: pa.DataType) -> str | None:
    """Why no value of this type can be an id of that type; None where each value decides."""
    if pt.is_nested(plain_type(source)):
        return None  # each row says so
    if pt.is_integer(id_type):
        return refusal(source, id_type)
    if is_text(source):
        return None
    try:
        pa.nulls(0, plain_type(source)).cast(id_type)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        return f"{source} cannot become {id_type}"
    return None


def text_column(array: pa.Array, label: str) -> Column:
    """Valid UTF-8 or null, as large_string. Arrow does not check what Parquet files claim to be UTF-8."""
    array = plain(array)
    if pt.is_null(array.type):
        return pa.nulls(len(array), pa.large_string()), {}
    binary = array.cast(pa.large_binary())
    try:
        return binary.cast(pa.large_string()), {}
    except pa.ArrowInvalid:
        return _by_value(binary.to_pylist(), pa.large_string(), lambda value: _decode(value, label))


def id_column(array: pa.Array, id_type: pa.DataType) -> Column:
    """Text as it is; integers, dates, decimals as Arrow writes them; floats as Python's repr; booleans true and false.

    Where ids are integers nothing but a number is one: a text '007' is not 7.
    """
    array = decoded(array)
    if isinstance(array.type, pa.UuidType):
        return _by_value(array.to_pylist(), id_type, str)
    array = plain(array)
    if pt.is_nested(array.type):
        return pa.nulls(len(array), id_type), dict.fromkeys(range(len(array)), f"id is not a scalar ({array.type})")
    if pt.is_integer(id_type):
        return _fitting(array, id_type, "id")
    if is_text(array.type):
        column, bad = text_column(array, "id")
        return column.cast(id_type), bad
    if pt.is_floating(array.type):
        return _by_value(array.to_pylist(), id_type, repr)
    return array.cast(id_type), {}


def kept_column(array: pa.Array, target: pa.DataType, name: str) -> Column:
    """Call `refusal` on the type first: here only single values may be at fault."""
    return _fitting(array, target, f"kept column {name}")


def _fitting(array: pa.Array, target: pa.DataType, label: str) -> Column:
    column, unfit = settled(array, target)
    return column, {place: _reason(why, array.type, target, label) for place, why in unfit.items()}


def _reason(why: str, source: pa.DataType, target: pa.DataType, label: str) -> str:
    if "utf8" in why.lower():
        return f"{label} is not valid UTF-8"
    if decoded_type(source) == target:  # the file itself breaks its type: 25:00 as a time, more digits than a decimal has
        return f"{label} holds a value that {target} does not allow ({' '.join(why.split())[:200]})"
    return f"{label}: a value of type {decoded_type(source)} does not fit {target}"


def _by_value(values: list[Any], target: pa.DataType, convert: Callable[[Any], Any]) -> Column:
    """Python values one by one; `convert` raises ValueError with the reason."""
    bad: dict[int, str] = {}
    for place, value in enumerate(values):
        if value is not None:
            try:
                values[place] = convert(value)
            except ValueError as error:
                values[place] = None
                bad[place] = str(error)
    return pa.array(values, target), bad


def _decode(value: bytes, label: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{label} is not valid UTF-8 (byte {error.start})") from None

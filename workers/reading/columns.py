"""Arrow columns of a source -> the types of the run's schema; values that do not fit are named, row by row.

    text_column    any string or binary type -> large_string, valid UTF-8
    id_column      any scalar type -> plan.id_type
    kept_column    any type -> its type in plan.keep, by Arrow's safe cast

Each returns the column with nulls where a value is bad, and {place: reason}. Whole columns are converted at once, and row by
row only where that fails. Knows nothing of files; `refusal` says beforehand which types cannot work at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

Column = tuple[pa.Array, dict[int, str]]


def plain(array: pa.Array) -> pa.Array:
    """The array without dictionary, run-end or extension encoding around it."""
    if isinstance(array.type, pa.BaseExtensionType):
        return plain(array.storage)
    if pt.is_dictionary(array.type):
        wide = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(array.type.value_type)
        if wide is not None:  # pyarrow decodes no dictionaries of views
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(wide))
        return plain(array.dictionary_decode())
    if pt.is_run_end_encoded(array.type):
        return plain(pa.compute.run_end_decode(array))
    return array


def plain_type(source: pa.DataType) -> pa.DataType:
    """Type of `plain(array)` for arrays of this type."""
    if isinstance(source, pa.BaseExtensionType):
        return plain_type(source.storage_type)
    if pt.is_dictionary(source) or pt.is_run_end_encoded(source):
        return plain_type(source.value_type)
    return source


def is_text(source: pa.DataType) -> bool:
    """Whether values of this type can be texts: any string or binary, encoded or not, or all null."""
    return _is_string(plain_type(source)) or _is_binary(plain_type(source)) or pt.is_null(plain_type(source))


def refusal(source: pa.DataType, target: pa.DataType) -> str | None:
    """Why a whole column of `source` can never be cast to `target`; None when it can."""
    if source == target:
        return None
    source = plain_type(source)
    try:
        pa.nulls(0, source).cast(target)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        return f"{source} cannot become {target}"
    return f"{source} has fields that {target} lacks" if _loses_fields(source, target) else None


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
    """Integers, strings, dates, decimals as Arrow writes them; floats as Python's repr; booleans true and false."""
    if isinstance(array.type, pa.UuidType):
        return _by_value(array.to_pylist(), id_type, str)
    array = plain(array)
    if pt.is_nested(array.type):
        return pa.nulls(len(array), id_type), dict.fromkeys(range(len(array)), f"id is not a scalar ({array.type})")
    if _is_string(array.type) or _is_binary(array.type):
        array, bad = text_column(array, "id")
        column, unfit = _cast(array, id_type, "id")
        return column, unfit | bad
    if pt.is_floating(array.type) and not pt.is_integer(id_type):
        return _by_value(array.to_pylist(), id_type, repr)
    return _cast(array, id_type, "id")


def kept_column(array: pa.Array, target: pa.DataType, name: str) -> Column:
    """Call `refusal` on the type first: here only single values may be at fault."""
    return _cast(array if array.type == target else plain(array), target, f"kept column {name}")


def _cast(array: pa.Array, target: pa.DataType, label: str) -> Column:
    try:
        column = array if array.type == target else array.cast(target)
        column.validate(full=True)  # UTF-8 inside strings, nested ones too
        return column, {}
    except pa.ArrowInvalid:
        return _by_row(array, target, label)


def _by_row(array: pa.Array, target: pa.DataType, label: str) -> Column:
    parts: list[pa.Array] = []
    bad: dict[int, str] = {}
    for place in range(len(array)):
        row = array.slice(place, 1)
        try:
            row.validate(full=True)
            cell = row if row.type == target else row.cast(target)
            cell.validate(full=True)
        except pa.ArrowInvalid as error:
            utf8 = "utf8" in str(error).lower()
            bad[place] = (
                f"{label} is not valid UTF-8" if utf8 else f"{label}: a value of type {array.type} does not fit {target}"
            )
            cell = pa.nulls(1, target)
        parts.append(cell)
    return pa.concat_arrays(parts), bad


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


def _loses_fields(source: pa.DataType, target: pa.DataType) -> bool:
    """Arrow's cast drops struct fields the target lacks without a word; a kept column must not lose any."""
    if pt.is_struct(source) and pt.is_struct(target):
        names = set(target.names)
        return any(
            part.name not in names or _loses_fields(part.type, target.field(part.name).type) for part in source.fields
        )
    if pt.is_map(source) and pt.is_map(target):
        return _loses_fields(source.item_type, target.item_type)
    if _is_list(source) and _is_list(target):
        return _loses_fields(source.value_type, target.value_type)
    return False


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind))

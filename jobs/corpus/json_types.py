"""The type of a JSON column, from the values of sampled records.

    infer      values -> one Arrow type; null where no value says more; JSON text where they have no one type
    agree      types inferred from several samples -> one
    storable   what is still unknown becomes string: Parquet holds no column of nothing

An object is a struct where its keys are names, and a map where they are data (users, words): see `is_dictionary`. Values of
several kinds, at whatever depth, make the whole column JSON text, which holds every value without loss. A type that was
inferred is a guess: the readers quarantine what does not fit it, and corpus.schema states another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.typed.type_names import JSON, MOST_LEVELS
from workers.storage.uris import is_utf8

FEW_KEYS, MANY_KEYS, MOST_KEYS = 8, 64, 512
_EXACT = 1 << 53  # integers up to here are floats without loss
_INT64 = 1 << 63


class NoOneType(ValueError):
    """Values that no type but JSON text holds; says why."""


def infer(values: Iterable[Any]) -> pa.DataType:
    """The type of all the values. Raises: NoOneType."""
    return _infer([value for value in values if value is not None], MOST_LEVELS)


def is_dictionary(keys: int, objects: int, held: int) -> bool:
    """Whether the keys of objects are data: `objects` of them hold `held` keys together, of which `keys` are different.

    Names recur from object to object, data seldom does. 8 keys or more of which an object has a quarter at most, 64 of which
    it has half at most, or 512 however they are spread.
    """
    if keys > MOST_KEYS:
        return True
    share = held / (objects * keys) if keys else 1.0
    return (keys >= FEW_KEYS and share <= 1 / 4) or (keys >= MANY_KEYS and share <= 1 / 2)


def agree(types: Iterable[pa.DataType]) -> pa.DataType:
    """One type that holds what each of the inferred types holds."""
    agreed = pa.null()
    for kind in types:
        try:
            agreed = _both(agreed, kind)
        except NoOneType:
            return JSON
    return agreed


def storable(kind: pa.DataType) -> pa.DataType:
    """Strings where nothing is known: null everywhere, in lists that are all empty, in objects without keys."""
    if pt.is_null(kind):
        return pa.string()
    if pt.is_list(kind):
        return pa.list_(storable(kind.value_type))
    if pt.is_map(kind):
        return pa.map_(pa.string(), storable(kind.item_type))
    if pt.is_struct(kind):
        fields = [pa.field(field.name, storable(field.type)) for field in kind.fields]
        return pa.struct(fields) if fields else pa.map_(pa.string(), pa.string())
    return kind


def _infer(values: Sequence[Any], levels: int) -> pa.DataType:
    """Of values that are not null."""
    if not levels:
        raise NoOneType(f"nested deeper than {MOST_LEVELS} levels")
    kinds = set(map(type, values))
    if not kinds:
        return pa.null()
    if kinds == {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return _integer(values)
    if kinds <= {int, float}:
        if any(abs(value) > _EXACT for value in values if type(value) is int):
            raise NoOneType("integers and floats, not all of them exact as floats")
        return pa.float64()
    if kinds == {list}:
        return pa.list_(_infer([item for value in values for item in value if item is not None], levels - 1))
    if kinds == {dict}:
        return _objects(values, levels - 1)
    ordered = [kind.__name__ for kind, _ in Counter(map(type, values)).most_common()]
    raise NoOneType(f"of several kinds ({', '.join(ordered)})")


def _integer(values: Sequence[int]) -> pa.DataType:
    least, most = min(values), max(values)
    if least >= -_INT64 and most < _INT64:
        return pa.int64()
    if least >= 0 and most < 2 * _INT64:
        return pa.uint64()
    raise NoOneType("integers beyond 64 bits")


def _objects(values: Sequence[dict[str, Any]], levels: int) -> pa.DataType:
    items: dict[str, list[Any]] = {}
    for value in values:
        for key, item in value.items():
            items.setdefault(key, []).append(item)
    held = sum(map(len, values))
    if is_dictionary(len(items), len(values), held):
        return pa.map_(
            pa.string(), _infer([item for of_key in items.values() for item in of_key if item is not None], levels)
        )
    if not all(map(is_utf8, items)):
        raise NoOneType("objects with a key that is not valid Unicode")
    fields = [pa.field(key, _infer([item for item in of_key if item is not None], levels)) for key, of_key in items.items()]
    return pa.struct(fields)


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The join of two inferred types. Raises: NoOneType."""
    if one == other or pt.is_null(other):
        return one
    if pt.is_null(one):
        return other
    if {one, other} <= {pa.int64(), pa.float64()}:
        return pa.float64()
    if pt.is_list(one) and pt.is_list(other):
        return pa.list_(_both(one.value_type, other.value_type))
    if pt.is_struct(one) and pt.is_struct(other):
        fields = {field.name: field.type for field in one.fields}
        for field in other.fields:
            fields[field.name] = _both(fields.get(field.name, pa.null()), field.type)
        return pa.struct(list(fields.items()))
    if (pt.is_struct(one) or pt.is_map(one)) and (pt.is_struct(other) or pt.is_map(other)):
        item = pa.null()
        for kind in (one, other):
            for of_key in [kind.item_type] if pt.is_map(kind) else [field.type for field in kind.fields]:
                item = _both(item, of_key)
        return pa.map_(pa.string(), item)
    raise NoOneType(f"{one} and {other}")

"""JSON objects (dicts as Python's json parses them) -> Arrow columns of the plan, for all formats that hold JSON.

    dicts -> the wanted keys, column by column -> Arrow

A row is quarantined when text is missing, null or no string, or when a value holds half of a surrogate pair or does not fit
its column (a kept column of strings takes any other value as its JSON text). A wanted key that a row lacks is taken from the
object's path (key=value); else it is null.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column, refusal
from workers.reading.line_records import Bad, Convert, take
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice

# What pa.array raises for a value of another kind, and json.dumps for one that is nested as deeply as json.loads allows
_MISFITS = (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError)
_SURROGATE = " is not valid Unicode (half of a surrogate pair)"
_KINDS = {"str": "string", "dict": "object", "list": "array", "NoneType": "null", "bool": "boolean", "float": "number"}


def parse_object(data: bytes, what: str) -> dict[str, Any] | Bad:
    """One JSON object; `what` names it in the reason why it is none. Of a key that stands twice the last counts."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Bad(f"{what} is not valid UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return Bad(f"{what} is not valid JSON (col {error.colno}: {error.msg})")
    except ValueError:
        return Bad(f"{what} is not valid JSON (a number of thousands of digits)")
    except RecursionError:
        return Bad(f"{what} is nested too deeply")
    return object_or_bad(value, what)


def object_or_bad(value: Any, what: str) -> dict[str, Any] | Bad:
    """A parsed value, if it can be a row."""
    return value if type(value) is dict else Bad(f"{what} is not a JSON object but {_kind(value)}")


def json_converter(piece: ObjectSlice, plan: ReadPlan) -> Convert:
    """Fills SourceRows from cells that are dicts, None where a record was Bad."""
    corpus = plan.corpus
    paths: dict[str, Any] = dict(piece.partitions)
    for field in plan.keep:
        if paths.get(field.name) is not None and refusal(pa.string(), field.type) is None:
            with contextlib.suppress(pa.ArrowInvalid):  # a folder that does not fit: its rows are quarantined one by one
                paths[field.name] = pa.scalar(paths[field.name]).cast(field.type).as_py()

    def convert(rows: SourceRows, cells: list[Any]) -> None:
        records = [{} if cell is None else cell for cell in cells]

        def values(name: str) -> list[Any]:
            default = paths.get(name)
            return [record.get(name, default) for record in records]

        if corpus.id is not None:
            rows.ids = take(rows, _ids(values(corpus.id), plan.id_type))
        for name in corpus.text:
            label = "text" if len(corpus.text) == 1 else f"text column {name}"
            rows.texts.append(take(rows, _texts(values(name), label)))
        if len(corpus.text) == 1 and corpus.text[0] not in paths and rows.texts[0].null_count:
            for place, record in enumerate(records):
                if corpus.text[0] not in record:
                    rows.reasons.setdefault(place, f"text is missing (no key {corpus.text[0]!r})")
        for field in plan.keep:
            rows.keep.append(take(rows, _kept(values(field.name), field.type, field.name)))

    return convert


def _texts(values: list[Any], label: str) -> Column:
    try:
        return pa.array(values, pa.large_string()), {}
    except _MISFITS:
        bad: dict[int, str] = {}
        for place, value in enumerate(values):
            if isinstance(value, str):
                if not _encodes(value):
                    bad[place] = label + _SURROGATE
            elif value is not None:
                bad[place] = f"{label} is not a string but {_kind(value)}"
            if place in bad:
                values[place] = None
        return pa.array(values, pa.large_string()), bad


def _ids(values: list[Any], id_type: pa.DataType) -> Column:
    """Numbers as JSON writes them, booleans as true and false."""
    bad: dict[int, str] = {}
    if set(map(type, values)) != {str}:
        for place, value in enumerate(values):
            if isinstance(value, dict | list):
                values[place] = None
                bad[place] = f"id is not a scalar but {_kind(value)}"
            elif isinstance(value, bool):
                values[place] = "true" if value else "false"
            elif isinstance(value, float) or (isinstance(value, int) and not pt.is_integer(id_type)):
                values[place] = repr(value)
    column, unfit = _kept(values, id_type, "id", "")
    return column, unfit | bad


def _kept(values: list[Any], target: pa.DataType, name: str, what: str = "kept column ") -> Column:
    """The whole column at once; value by value where pyarrow would lose something without a word, or when that fails."""
    guarded = pt.is_nested(target) or (pt.is_integer(target) and float in set(map(type, values)))
    with contextlib.suppress(*_MISFITS):
        return _convert([_conform(value, target) for value in values] if guarded else values, target), {}
    parts: list[pa.Array] = []
    bad: dict[int, str] = {}
    for place, value in enumerate(values):
        try:
            parts.append(_convert([_conform(value, target)], target))
        except _MISFITS:
            parts.append(pa.nulls(1, target))
            broken = isinstance(value, str) and not _encodes(value)
            misfit = _SURROGATE if broken else f": a value of type {_kind(value)} does not fit {target}"
            bad[place] = f"{what}{name}{misfit}"
    return pa.concat_arrays(parts), bad


def _convert(values: list[Any], target: pa.DataType) -> pa.Array:
    if pt.is_temporal(target) or pt.is_decimal(target):  # JSON writes them as strings, which only Arrow's cast can read
        kinds = set(map(type, values)) - {type(None)}
        if kinds == {str}:
            return pa.array(values, pa.string()).cast(target)
    return pa.array(values, target)


def _conform(value: Any, target: pa.DataType) -> Any:
    """The value as pyarrow takes it, guarding what it would do without a word: cut 1.5 to 1, drop keys a struct lacks.

    Raises:
        TypeError: something would be lost.
    """
    if value is None:
        return None
    if pt.is_string(target) or pt.is_large_string(target):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pt.is_integer(target) and isinstance(value, float) and not value.is_integer():
        raise TypeError
    if pt.is_struct(target):
        known = {field.name: field.type for field in target.fields}
        if not isinstance(value, dict) or value.keys() - known.keys():
            raise TypeError
        return {key: _conform(item, known[key]) for key, item in value.items()}
    if pt.is_map(target):
        if not isinstance(value, dict):
            raise TypeError
        return {key: _conform(item, target.item_type) for key, item in value.items()}
    if pt.is_nested(target):
        if not isinstance(value, list):
            raise TypeError
        return [_conform(item, target.value_type) for item in value]
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    name = type(value).__name__
    return _KINDS.get(name, "number" if name == "int" else name)

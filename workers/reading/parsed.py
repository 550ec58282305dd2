"""Strings of CSV, plain text and folder names -> the type that corpus.schema states for their column.

numbers and booleans         as Arrow's cast reads them: 7, -1.5e3, true
dates, times, timestamps     ISO 8601
lists, maps, structs, json   JSON text
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column, kept_column
from workers.reading.json_columns import kept_values
from workers.reading.json_values import misfit
from workers.reading.type_names import JSON


def kept_strings(strings: pa.Array, field: pa.Field, stated: bool) -> Column:
    """A kept column of a format that holds strings only. `stated`: its type is from corpus.schema."""
    if not stated:
        return kept_column(strings, field.type, field.name)
    target = field.type
    if pt.is_integer(target) or pt.is_floating(target) or pt.is_boolean(target):
        return _cast(strings, field)
    if target == JSON or pt.is_nested(target):
        return _by_json(strings.to_pylist(), field)
    return kept_values(strings.to_pylist(), field, stated)


def _cast(strings: pa.Array, field: pa.Field) -> Column:
    try:
        return strings.cast(field.type), {}
    except pa.ArrowInvalid:
        bad: dict[int, str] = {}
        parts: list[pa.Array] = []
        for place in range(len(strings)):
            try:
                parts.append(strings.slice(place, 1).cast(field.type))
            except pa.ArrowInvalid:
                parts.append(pa.nulls(1, field.type))
                bad[place] = _reason(strings[place].as_py(), field)
        return pa.concat_arrays(parts), bad


def _by_json(texts: list[str | None], field: pa.Field) -> Column:
    bad: dict[int, str] = {}
    values: list[Any] = []
    for place, text in enumerate(texts):
        try:
            values.append(None if text is None else json.loads(text))
        except (ValueError, RecursionError):
            values.append(None)
            bad[place] = f"kept column {field.name} is not valid JSON, which {field.name} of corpus.schema asks for"
    if field.type == JSON:  # as it is written
        kept = [None if place in bad else text for place, text in enumerate(texts)]
        return pa.array(kept, pa.string()).cast(JSON), bad
    column, unfit = kept_values(values, field, stated=True)
    return column, unfit | bad


def _reason(value: str, field: pa.Field) -> str:
    return f"kept column {field.name}{misfit(value, field.type)}, its type in corpus.schema"

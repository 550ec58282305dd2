"""Strings of CSV, plain text and folder names -> kept columns; with corpus.schema also such as no text can be otherwise.

scalars, and JSON          workers/reading/notation.py
lists, maps and structs    JSON text, where corpus.schema states such a type
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column
from workers.reading.json_columns import kept_values
from workers.reading.notation import text_column_of


def kept_strings(strings: pa.Array, field: pa.Field, stated: bool) -> Column:
    """A kept column of a format that holds strings only. `stated`: its type is from corpus.schema."""
    if stated and pt.is_nested(field.type):
        return _by_json(strings.to_pylist(), field)
    column, bad = text_column_of(strings, field.type, f"kept column {field.name}")
    return column, {place: f"{reason}, its type in corpus.schema" for place, reason in bad.items()} if stated else bad


def _by_json(texts: list[str | None], field: pa.Field) -> Column:
    bad: dict[int, str] = {}
    values: list[Any] = []
    for place, text in enumerate(texts):
        try:
            values.append(None if text is None else json.loads(text))
        except (ValueError, RecursionError):
            values.append(None)
            bad[place] = f"kept column {field.name}: a value is not valid JSON, as its type in corpus.schema asks for"
    column, unfit = kept_values(values, field, stated=True)
    return column, unfit | bad

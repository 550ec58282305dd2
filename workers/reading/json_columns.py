"""JSON objects (dicts as Python's json parses them) -> Arrow columns of the plan, for all formats that hold JSON.

    dicts -> the wanted keys, column by column -> Arrow

A row is quarantined when text is missing, null or no string, or when a value holds half of a surrogate pair or does not fit
its column (workers/reading/typed/json_values.py); the reason says how corpus.schema keeps it. A wanted key that a row lacks
is taken from the object's path (key=value); else it is null.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.columns import Column
from workers.reading.line_records import Bad, Convert, take
from workers.reading.notation import MISFITS, from_text
from workers.reading.source_rows import SourceRows
from workers.reading.typed.json_values import SURROGATE, json_column, kind_of
from workers.reading.widening import Family, family
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.uris import is_utf8


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
    return value if type(value) is dict else Bad(f"{what} is not a JSON object but {kind_of(value)}")


def json_converter(piece: ObjectSlice, plan: ReadPlan) -> Convert:
    """Fills SourceRows from cells that are dicts, None where a record was Bad."""
    corpus = plan.corpus
    paths: dict[str, Any] = dict(piece.partitions)
    for field in plan.keep:
        if paths.get(field.name) is not None and family(field.type) in (Family.BOOLEAN, Family.INTEGER, Family.FLOAT):
            with contextlib.suppress(*MISFITS):  # a folder that does not fit: its rows are quarantined one by one
                paths[field.name] = from_text(paths[field.name], field.type)

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
            rows.keep.append(take(rows, kept_values(values(field.name), field, field.name in corpus.types)))
            if field.name in paths or any(field.name in record for record in records):
                rows.seen.add(field.name)

    return convert


def _texts(values: list[Any], label: str) -> Column:
    try:
        return pa.array(values, pa.large_string()), {}
    except MISFITS:
        bad: dict[int, str] = {}
        for place, value in enumerate(values):
            if isinstance(value, str):
                if not is_utf8(value):
                    bad[place] = label + SURROGATE
            elif value is not None:
                bad[place] = f"{label} is not a string but {kind_of(value)}"
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
                bad[place] = f"id is not a scalar but {kind_of(value)}"
            elif isinstance(value, bool):
                values[place] = "true" if value else "false"
            elif isinstance(value, float) or (isinstance(value, int) and not pt.is_integer(id_type)):
                values[place] = repr(value)
    column, unfit = json_column(values, id_type)
    return column, {place: f"id{reason}" for place, reason in unfit.items()} | bad


def kept_values(values: list[Any], field: pa.Field, stated: bool) -> Column:
    """A kept column; the reasons say which setting keeps what does not fit. `stated`: its type is from corpus.schema."""
    column, unfit = json_column(values, field.type)
    return column, {place: _reason(reason, values[place], field, stated) for place, reason in unfit.items()}


def _reason(misfit: str, value: Any, field: pa.Field, stated: bool) -> str:
    reason = f"kept column {field.name}{misfit}"
    if misfit == SURROGATE:
        return reason
    if stated:
        return f"{reason}, its type in corpus.schema"
    wide = "double" if pt.is_integer(field.type) and isinstance(value, float) else "json"
    return f"{reason}; corpus.schema: {{{field.name}: {wide}}} keeps it"

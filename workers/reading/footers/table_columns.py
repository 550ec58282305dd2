"""The columns of a table, found in one of its data files: by field id, or by the name that the table has for them there.

    names_in_file   the table's column -> the file's column, of those that the file has
    inner_fields    paths and field ids of the fields inside a column, as a TableColumn has them

A table may rename a column without writing its files again (Iceberg; Delta with column mapping). Its old files then keep the
old name, and a new column may have the name of a dropped one: names alone would give the wrong texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from workers.records.pinned_table import TableColumn

_FIELD_ID = b"PARQUET:field_id"


def names_in_file(schema: pa.Schema, columns: Sequence[TableColumn]) -> dict[str, str]:
    """The table's name -> the file's name. A column that the file does not have is left out: it is null in all its rows.

    Raises:
        ValueError: a file's column has other fields inside it than the table's; two of its columns have one id or name; or
            it has no ids where they alone tell its columns.
    """
    by_id: dict[int, pa.Field] = {}
    for field in schema:
        number = _field_id(field)
        if number is not None and number in by_id:
            raise ValueError(f"two columns of it have the field id {number}")
        if number is not None:
            by_id[number] = field
    if not by_id and not any(column.names for column in columns):
        raise ValueError("its columns have no field ids, and the table does not say what they are called in such files")
    found = {}
    for column in columns:
        if column.field_id is not None and by_id:
            field = by_id.get(column.field_id)
        else:
            name = next((name for name in column.names if name in schema.names), None)
            field = None if name is None else schema.field(schema.get_all_field_indices(name)[0])
        if field is None:
            continue
        if by_id and column.inner != tuple(inner_fields(field.type)):
            raise ValueError(
                f"column {column.name!r} has other fields inside it than in the table now; rewrite the data files"
            )
        if schema.names.count(field.name) > 1:
            raise ValueError(f"has more than one column {field.name!r}")
        found[column.name] = field.name
    return found


def inner_fields(kind: pa.DataType, path: str = "") -> Iterator[tuple[str, int | None]]:
    """(path, field id) of the fields of structs at any depth. Elements of lists and maps have a place, but no name."""
    for number in range(kind.num_fields):
        field = kind.field(number)
        at = f"{path}.{field.name}" if pt.is_struct(kind) else f"{path}[{number}]"
        if pt.is_struct(kind):
            yield at, _field_id(field)
        yield from inner_fields(field.type, at)


def _field_id(field: Any) -> int | None:
    number = (field.metadata or {}).get(_FIELD_ID)
    return None if number is None else int(number)

"""Hive folder names for partition values: `section=text%2Fplain`. Pure; knows nothing of parts or storage.

    partition_folder   values -> folders          hive_partitions   folders -> values
    can_name_folder    which types of columns may be used

    name, value -> UTF-8 -> percent-encoded outside [A-Za-z0-9_.-~] -> shortened when too long -> name=value

pyarrow, DuckDB, Polars, pandas and Ray Data decode values, so what comes out of the folder is what went in. Special cases:

- null is `__HIVE_DEFAULT_PARTITION__`, which readers turn back into null.
- The empty string is `name=`: pyarrow, DuckDB, Polars and Ray Data read '' from it, and it differs from null. (Spark refuses
  such a folder; its own writer would have made null of the value.)
- A value that *is* the text `__HIVE_DEFAULT_PARTITION__` cannot be escaped (pyarrow and Polars decode before they compare),
  so it is written in the shortened form below and stays apart from null.
- A value too long for a file name keeps its head, then `~` and 16 hex digits of its SHA-256. The whole value is in the
  footer of every part (`reembed.partition_values`).

A folder is always `something=something`, without `/`, `\\`, NUL or a bare `..`: it cannot leave the output prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import quote, unquote

import pyarrow as pa

from workers.errors import UsageError

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's spelling of null, known to every reader
Partitions = tuple[tuple[str, str | None], ...]  # (column, value) in path order
MAX_NAME_BYTES = 254  # file systems allow 255 bytes for one name
MAX_VALUE_BYTES = 200  # leaves room for `column=`
_DIGEST_CHARS = 17  # ~ and 16 hex digits
_MIN_VALUE_BYTES = 64  # a column name that leaves less is refused


def partition_folder(columns: Sequence[str], values: Sequence[str | None]) -> str:
    """The folder of one combination of values: `col=value/col2=value`; '' without columns.

    Raises:
        UsageError: a column name too long for a folder.
    """
    return "/".join(_level(column, value) for column, value in zip(columns, values, strict=True))


def can_name_folder(kind: pa.DataType) -> bool:
    """Whether values of this type have one exact, short text form: not nested, binary, floating point or an extension."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    marked = isinstance(kind, pa.BaseExtensionType)
    return not (marked or pa.types.is_nested(kind) or pa.types.is_floating(kind) or "binary" in str(kind))


def hive_partitions(folders: Sequence[str]) -> Partitions:
    """`name=value` folders in path order, percent-decoded; HIVE_NULL becomes None. Other folders are left out."""
    pairs = (folder.partition("=") for folder in folders)
    return tuple(
        (unquote(name), None if value == HIVE_NULL else unquote(value)) for name, equals, value in pairs if equals and name
    )


def _level(column: str, value: str | None) -> str:
    name = _quote(column)
    room = min(MAX_VALUE_BYTES, MAX_NAME_BYTES - len(name) - 1)
    if room < _MIN_VALUE_BYTES:
        raise UsageError(
            f"output.partition_by: column name {column[:40]!r}... is too long for a folder name; rename the column"
        )
    return f"{name}={HIVE_NULL if value is None else _encode(value, room)}"


def _encode(value: str, room: int) -> str:
    """Percent-encoded value of at most `room` bytes."""
    if value in (".", ".."):
        return value.replace(".", "%2E")
    encoded = _quote(value)
    if len(encoded) <= room and value != HIVE_NULL:
        return encoded
    digest = hashlib.sha256(value.encode()).hexdigest()[: _DIGEST_CHARS - 1]
    return f"{_head(value, room - _DIGEST_CHARS)}~{digest}"


def _head(value: str, room: int) -> str:
    """As many whole characters of the value as fit: an escape is never cut, so readers can still decode the name."""
    head = ""
    for char in value:
        piece = _quote(char)
        if len(head) + len(piece) > room:
            break
        head += piece
    return head


def _quote(text: str) -> str:
    return quote(text, safe="")  # keeps A-Z a-z 0-9 _ . - ~

"""The files that a task is given: queries, relevance judgements, graded pairs. Parquet, or JSON with an object on each line.

They are read whole by the driver: they are made by people, or sampled. Opened with the snapshot's storage_options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from jobs.evaluate.config import EvaluateSection
from workers.errors import UsageError
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.small_table import decode_table

FIRST = 5  # offending ids named in an error
_OPTIONS = ("queries", "qrels", "pairs")


def read_table(section: EvaluateSection, option: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """These columns of the file that `evaluate.<option>` names, in these types, without nulls.

    Raises: UsageError: no such file, another format, a column that is missing, null or of another type, no rows.
    """
    uri = getattr(section, option)
    shown = f"evaluate.{option}={redact(uri)}"
    table = _parsed(_read(section, option), uri, shown)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UsageError(
            f"{shown}: has no column {missing[0]} (columns: {', '.join(table.column_names)}); it needs {', '.join(columns)}"
        )
    if not len(table):
        raise UsageError(f"{shown}: has no rows")
    cells = []
    for name, kind in columns.items():
        column = table.column(name)
        if column.null_count:
            raise UsageError(f"{shown}: {name} is null in {column.null_count:,} of {len(table):,} rows; remove these rows")
        try:
            cells.append(column.cast(kind))
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{shown}: {name} is {column.type}, not {kind}: {reason}") from None
    return pa.Table.from_arrays(cells, names=list(columns))


def column_names(section: EvaluateSection, option: str) -> list[str]:
    """Of the file. Raises: as read_table()."""
    uri = getattr(section, option)
    return list(_parsed(_read(section, option), uri, f"evaluate.{option}={redact(uri)}").column_names)


def digests(section: EvaluateSection) -> dict[str, str]:
    """SHA-256 (hex) of every file that the section names. Raises: UsageError: no such file."""
    return {name: hashlib.sha256(_read(section, name)).hexdigest() for name in _OPTIONS if getattr(section, name)}


def require_distinct(ids: pa.ChunkedArray, shown: str) -> None:
    """Raises: UsageError: an id that stands twice."""
    counts = pc.value_counts(ids)
    twice = [cell["values"].as_py() for cell in counts if cell["counts"].as_py() > 1]
    if twice:
        raise UsageError(f"{shown}: {len(twice):,} ids stand there more than once ({first_of(twice)}); remove the others")


def first_of(ids: Sequence[str]) -> str:
    """`a, b, c, d, e, …`: the first in order."""
    return ", ".join(sorted(ids)[:FIRST]) + (", …" if len(ids) > FIRST else "")


def _read(section: EvaluateSection, option: str) -> bytes:
    uri = getattr(section, option)
    folder, _, name = uri.rpartition("/")
    try:
        return Store(folder or ("/" if uri.startswith("/") else "."), section.storage_options).read(name)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"evaluate.{option}={redact(uri)}: there is no such file; correct the uri") from None


def _parsed(data: bytes, uri: str, shown: str) -> pa.Table:
    try:
        if uri.endswith((".jsonl", ".ndjson", ".json")):
            return pyarrow.json.read_json(pa.BufferReader(data))
        if uri.endswith((".parquet", ".pq")):
            return decode_table(data)
    except pa.ArrowException as error:
        raise UsageError(f"{shown}: cannot be read: {str(error).splitlines()[0]}") from None
    raise UsageError(f"{shown}: neither a .parquet nor a .jsonl file; write it as one of them")

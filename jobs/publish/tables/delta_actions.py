"""A part as an action of Delta's log: its path, partition values and statistics in the log's notation.

Statistics (the protocol's "Per-file Statistics") are numRecords, and of the columns that a part's footer tells of: nullCount,
and for integers, dates and strings minValues and maxValues. Not of floats, whose footers leave NaN out while Delta takes it
for the largest value, nor of other types. Strings are cut to 32 characters; the largest then gets the last character of
Unicode, so that it stays an upper bound.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from jobs.publish.tables.table import TablePart
from workers.errors import UsageError
from workers.table.paths import DATA

_PREFIX = 32  # characters of a string
_LAST = "\U0010ffff"


def add_action(part: TablePart, milliseconds: int) -> dict[str, Any]:
    """`milliseconds`: of the commit, since 1970. Raises: UsageError: a partition value that Delta cannot tell from null."""
    for name, value in part.values.items():
        if value == "":
            raise UsageError(
                f"output.table: delta takes an empty partition value for null, and {name} is '' in {part.file.path}; leave "
                "output.table out, or partition by another column"
            )
    return {
        "path": log_path(part.file.path),
        "partitionValues": dict(part.values),
        "size": part.file.bytes,
        "modificationTime": milliseconds,
        "dataChange": True,
        "stats": _statistics(part),
    }


def remove_action(add: Mapping[str, Any], milliseconds: int) -> dict[str, Any]:
    """Of a file that an add action named."""
    return {
        "path": add["path"],
        "deletionTimestamp": milliseconds,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": dict(add.get("partitionValues") or {}),
        "size": add["size"],
    }


def log_path(path: str) -> str:
    """data/<run>/lang=de%2Ffr/part-….parquet -> <run>/lang=de%252Ffr/part-….parquet: relative to data/, as a URI has it."""
    return quote(path.removeprefix(f"{DATA}/"), safe="/=")


def stored_path(path: str) -> str:
    """The inverse: relative to OUTPUT. An absolute URI, which this program never writes, stays one."""
    return path if "://" in path else f"{DATA}/{unquote(path)}"


def _statistics(part: TablePart) -> str:
    known = part.statistics
    bounds = {name: bound for name, each in known.items() if (bound := _bounds(each.least, each.most)) is not None}
    told = {
        "numRecords": part.file.rows,
        "minValues": {name: least for name, (least, _) in bounds.items()},
        "maxValues": {name: most for name, (_, most) in bounds.items()},
        "nullCount": {name: each.nulls for name, each in known.items() if each.nulls is not None},
    }
    return json.dumps(told)


def _bounds(least: Any, most: Any) -> tuple[int | str, int | str] | None:
    """As JSON has them; None: not of a type that they are told of."""
    if isinstance(least, bool) or isinstance(most, bool):
        return None
    if isinstance(least, int) and isinstance(most, int):
        return least, most
    if isinstance(least, str) and isinstance(most, str):
        return least[:_PREFIX], _at_least(most)
    if type(least) is datetime.date and type(most) is datetime.date:
        return least.isoformat(), most.isoformat()
    return None


def _at_least(text: str) -> str:
    """A string of about 32 characters that does not sort before `text`, by code points as by UTF-8."""
    at = _PREFIX
    while text[at : at + 1] == _LAST:
        at += 1
    return text if len(text) <= at else text[:at] + _LAST

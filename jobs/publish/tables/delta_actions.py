"""A part as an action of Delta's log: its path, partition values and statistics in the log's notation.

Statistics (the protocol's "Per-file Statistics") are numRecords, and of the columns that a part's footer tells of:
nullCount, and for integers, dates and strings minValues and maxValues (bounds.py).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from jobs.publish.tables.bounds import Bound, bounds_of
from jobs.publish.tables.table import TablePart
from workers.errors import UsageError
from workers.table.paths import DATA


def refuse_part(part: TablePart) -> None:
    """Raises: UsageError: a partition value that Delta cannot tell from null."""
    for name, value in part.values.items():
        if value == "":
            raise UsageError(
                f"output.table: delta takes an empty partition value for null, and {name} is '' in {part.file.path}; leave "
                "output.table out, or partition by another column"
            )


def add_action(part: TablePart, milliseconds: int) -> dict[str, Any]:
    """`milliseconds`: of the commit, since 1970."""
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
    bounds = {name: bound for name, each in known.items() if (bound := bounds_of(each)) is not None}
    told = {
        "numRecords": part.file.rows,
        "minValues": {name: _json(least) for name, (least, _) in bounds.items()},
        "maxValues": {name: _json(most) for name, (_, most) in bounds.items()},
        "nullCount": {name: each.nulls for name, each in known.items() if each.nulls is not None},
    }
    return json.dumps(told)


def _json(bound: Bound) -> int | str:
    return bound.isoformat() if isinstance(bound, datetime.date) else bound

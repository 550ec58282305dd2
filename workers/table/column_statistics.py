"""What a part's footer says of the values in its columns: smallest, largest, and how many are null.

Taken over from the footer, so at most as good as its writer made them: bounds, not always values that occur. A column of
which a row group tells nothing has none. Columns inside lists and structs are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Of one column over all row groups. `least`, `most`: None where they are not known, or every value is null."""

    nulls: int | None
    least: Any = None
    most: Any = None


def column_statistics(metadata: pq.FileMetaData) -> dict[str, ColumnStatistics]:
    """By column; only columns of which the footer tells something."""
    found = {}
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    for number, name in enumerate(names):
        if "." in name:
            continue
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        stated = [(group.column(number).statistics, group.num_rows) for group in groups if group.num_rows]
        statistics = _joined(stated)
        if statistics is not None:
            found[name] = statistics
    return found


def _joined(stated: list[tuple[pq.Statistics | None, int]]) -> ColumnStatistics | None:
    """Of (what a row group says of the column, its rows)."""
    if not stated or any(statistics is None for statistics, _ in stated):
        return None
    known = [(statistics, rows) for statistics, rows in stated if statistics is not None]
    nulls = sum(statistics.null_count for statistics, _ in known) if all(each.has_null_count for each, _ in known) else None
    valued = [each for each, rows in known if not (each.has_null_count and each.null_count == rows)]
    if not valued or not all(each.has_min_max for each in valued):
        return None if nulls is None else ColumnStatistics(nulls)
    return ColumnStatistics(nulls, min(each.min for each in valued), max(each.max for each in valued))

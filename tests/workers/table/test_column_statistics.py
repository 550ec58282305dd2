"""Statistics of a file's columns are those of its values."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from workers.table.column_statistics import ColumnStatistics, column_statistics


def _of(*groups: pa.Table, statistics: bool | list[str] = True) -> dict[str, ColumnStatistics]:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, groups[0].schema, write_statistics=statistics) as writer:
        for group in groups:
            writer.write_table(group)
    return column_statistics(pq.read_metadata(sink))


def test_over_row_groups() -> None:
    schema = pa.schema({"id": pa.string(), "number": pa.int32(), "none": pa.int64(), "list": pa.list_(pa.int32())})
    first = pa.table([["b", "c"], [5, None], [None, None], [[1], [2]]], schema=schema)
    second = pa.table([["a", "é"], [None, None], [None, None], [[3], []]], schema=schema)
    assert _of(first, second) == {
        "id": ColumnStatistics(0, "a", "é"),
        "number": ColumnStatistics(3, 5, 5),
        "none": ColumnStatistics(4),
    }


def test_without_statistics_nothing_is_told() -> None:
    table = pa.table({"id": ["a"], "other": ["b"]})
    assert _of(table, statistics=["id"]) == {"id": ColumnStatistics(0, "a", "a")}
    assert _of(table.slice(0, 0)) == {}

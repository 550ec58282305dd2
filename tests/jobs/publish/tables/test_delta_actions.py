"""Bounds in the statistics are bounds, and paths come back as they were."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.publish.tables.delta_actions import add_action, log_path, refuse_part, remove_action, stored_path
from jobs.publish.tables.table import TablePart
from workers.errors import UsageError
from workers.records.shard import OutputFile
from workers.table.column_statistics import ColumnStatistics

PATH = "data/20261120T100312Z-1a2b3c4d/lang=text%2Fplain/part-0000001.parquet"
FILE = OutputFile(PATH, 7, 1234, "s", "d")


def _told(statistics: dict[str, ColumnStatistics]) -> dict[str, dict[str, object]]:
    stats: dict[str, dict[str, object]] = json.loads(add_action(TablePart(FILE, {}, statistics), 5)["stats"])
    return stats


def test_an_add_action_after_the_protocol() -> None:
    statistics = {
        "id": ColumnStatistics(0, "a", "b"),
        "at": ColumnStatistics(1, datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)),
        "flag": ColumnStatistics(2, False, True),
        "real": ColumnStatistics(3, 0.5, 1.5),
        "none": ColumnStatistics(7),
        "when": ColumnStatistics(0, datetime.datetime(2026, 1, 2), datetime.datetime(2026, 1, 2)),
        "unknown": ColumnStatistics(None, 1, 2),
    }
    action = add_action(TablePart(FILE, {"lang": "text/plain", "kind": None}, statistics), 5)
    assert action | {"stats": ""} == {
        "path": "20261120T100312Z-1a2b3c4d/lang=text%252Fplain/part-0000001.parquet",
        "partitionValues": {"lang": "text/plain", "kind": None},
        "size": 1234, "modificationTime": 5, "dataChange": True, "stats": "",
    }  # fmt: skip
    assert json.loads(action["stats"]) == {
        "numRecords": 7,
        "minValues": {"id": "a", "at": "2026-01-02", "unknown": 1},
        "maxValues": {"id": "b", "at": "2026-01-03", "unknown": 2},
        "nullCount": {"id": 0, "at": 1, "flag": 2, "real": 3, "none": 7, "when": 0},
    }
    assert remove_action(action, 6) == {
        "path": action["path"], "deletionTimestamp": 6, "dataChange": True, "extendedFileMetadata": True,
        "partitionValues": {"lang": "text/plain", "kind": None}, "size": 1234,
    }  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1))
def test_strings_are_cut_to_bounds(values: list[str]) -> None:
    told = _told({"id": ColumnStatistics(0, min(values), max(values))})
    least, most = str(told["minValues"]["id"]), str(told["maxValues"]["id"])
    assert all(least.encode() <= value.encode() <= most.encode() for value in values)


@pytest.mark.parametrize("tail", ["", "x", "\U0010ffff", "\U0010ffff\U0010ffff", "\U0010ffffx" * 3])
def test_the_last_character_of_unicode_is_exceeded_too(tail: str) -> None:
    text = "y" * 32 + tail
    assert str(_told({"id": ColumnStatistics(0, text, text)})["maxValues"]["id"]) >= text


def test_paths_come_back() -> None:
    assert stored_path(log_path(PATH)) == PATH
    assert stored_path("s3://other/bucket/x.parquet") == "s3://other/bucket/x.parquet"


def test_an_empty_partition_value_is_refused() -> None:
    with pytest.raises(UsageError, match="takes an empty partition value for null, and lang is ''"):
        refuse_part(TablePart(FILE, {"lang": ""}))

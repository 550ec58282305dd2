"""Strings as the type that corpus.schema states, by Python's own parsers."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from workers.reading.typed.strings import kept_strings
from workers.reading.typed.type_names import parse_type


@pytest.mark.parametrize(
    ("name", "texts", "expected", "bad"),
    [
        ("int64", ["7", None, "-1", "seven", "1.5"], [7, None, -1, None, None], [3, 4]),
        ("double", ["0.5", "1e3", "x"], [0.5, 1000.0, None], [2]),
        ("bool", ["true", "False", "yes"], [True, False, None], [2]),
        ("string", ["007", ""], ["007", ""], []),
        ("date32", ["2024-01-31", "31.1.2024"], [datetime.date(2024, 1, 31), None], [1]),
        ("timestamp[s, UTC]", ["2024-01-31T00:00:00Z"], [datetime.datetime(2024, 1, 31, tzinfo=datetime.UTC)], []),
        ("list<int64>", ["[1, 2]", "1, 2", "[true]", "null"], [[1, 2], None, None, None], [1, 2]),
        ("map<string, double>", ['{"a": 1}'], [[("a", 1.0)]], []),
        ("struct<a: string>", ['{"a": "x"}', '{"b": "x"}'], [{"a": "x"}, None], [1]),
        ("json", ['{"a":  1}', "{a}", "[" * 100_000], ['{"a":  1}', None, None], [1, 2]),
    ],
)
def test_stated_types(name: str, texts: list[str | None], expected: list[Any], bad: list[int]) -> None:
    kind = parse_type(name)
    column, reasons = kept_strings(pa.array(texts, pa.string()), pa.field("c", kind), stated=True)
    assert column.type == kind
    assert column.to_pylist() == expected
    assert sorted(reasons) == bad
    assert all("kept column c" in reason and "corpus.schema" in reason for reason in reasons.values())

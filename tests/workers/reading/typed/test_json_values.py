"""JSON values as columns: by json and pyarrow; never another value."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.reading.typed.json_values import json_column
from workers.reading.typed.type_names import parse_type

UTC = datetime.UTC
GOOD: list[tuple[str, Any, Any]] = [
    ("int64", 2**63 - 1, 2**63 - 1),
    ("int64", 3.0, 3),
    ("uint64", 2**64 - 1, 2**64 - 1),
    ("double", 2**53, float(2**53)),
    ("double", 2**60, float(2**60)),
    ("bool", True, True),
    ("string", "007", "007"),
    ("date32", "2024-02-29", datetime.date(2024, 2, 29)),
    ("timestamp[us, UTC]", "2024-02-29T01:02:03.000004Z", datetime.datetime(2024, 2, 29, 1, 2, 3, 4, UTC)),
    ("timestamp[us, UTC]", "2024-02-29T01:00:00+02:00", datetime.datetime(2024, 2, 28, 23, tzinfo=UTC)),
    ("timestamp[s]", "2024-02-29 01:02:03", datetime.datetime(2024, 2, 29, 1, 2, 3)),
    ("time64[us]", "23:59:59.000001", datetime.time(23, 59, 59, 1)),
    ("decimal(10, 2)", 12, decimal.Decimal("12.00")),
    ("decimal(10, 2)", "12.30", decimal.Decimal("12.30")),
    ("list<double>", [1, 0.5, None], [1.0, 0.5, None]),
    ("map<string, int64>", {"a": 1, "b": None}, [("a", 1), ("b", None)]),
    ("struct<a: int64, b: date32>", {"b": "2024-01-01"}, {"a": None, "b": datetime.date(2024, 1, 1)}),
    ("list<struct<at: timestamp[s]>>", [{"at": "2024-01-01T00:00"}], [{"at": datetime.datetime(2024, 1, 1)}]),
    ("map<string, date32>", {"a": "2024-01-01"}, [("a", datetime.date(2024, 1, 1))]),
]
GOOD += [
    (
        "struct<a: list<date32>, b: json>",
        {"a": [None, "2024-01-01"], "b": [1]},
        {"a": [None, datetime.date(2024, 1, 1)], "b": "[1]"},
    ),
    (
        "list<map<string, struct<t: time64[us]>>>",
        [None, {"k": None, "j": {"t": "01:00"}}],
        [None, [("k", None), ("j", {"t": datetime.time(1)})]],
    ),
]
BAD: list[tuple[str, Any]] = [
    ("int64", 0.5),
    ("int64", 2**63),
    ("int64", True),
    ("int64", "7"),
    ("int8", 128),
    ("double", 2**53 + 1),
    ("double", False),
    ("double", "0.5"),
    ("bool", 1),
    ("bool", "true"),
    ("string", 7),
    ("string", ["a"]),
    ("string", "half \ud83d"),
    ("date32", 19000),
    ("date32", "2024-02-30"),
    ("timestamp[us, UTC]", 1700000000),
    ("timestamp[us, UTC]", "2024-01-01T00:00:00"),
    ("timestamp[us]", "2024-01-01T00:00:00Z"),
    ("timestamp[us]", "2024-01-01"),
    ("timestamp[us]", "2024-01-01T00:00:00.123456789"),
    ("time32[s]", "01:02:03.5"),
    ("time32[s]", "01:02:03Z"),
    ("decimal(4, 2)", 1.25),  # a double before it came here
    ("decimal(4, 2)", True),
    ("decimal(4, 2)", "NaN"),
    ("list<int64>", [True]),
    ("list<int64>", {"a": 1}),
    ("map<string, int64>", {"a": "1"}),
    ("map<string, int64>", [1]),
    ("struct<a: int64>", {"a": 1, "b": 2}),
    ("struct<a: int64>", [1]),
    ("struct<a: string>", {"a": "half \ud83d"}),
    ("json", float("nan")),
    ("json", {"a": "half \ud83d"}),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_values_that_fit(name: str, value: Any, expected: Any) -> None:
    kind = parse_type(name)
    column, bad = json_column([None, value, value], kind)
    assert not bad
    assert column.type == kind
    assert column.to_pylist() == [None, expected, expected]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_that_do_not_fit_leave_their_neighbours_alone(name: str, value: Any) -> None:
    good = next((item for item in GOOD if item[0] == name), None)
    column, bad = json_column([value, good[1] if good else None, value], parse_type(name))
    assert list(bad) == [0, 2]
    assert column.to_pylist() == [None, good[2] if good else None, None]
    assert all(reason.startswith((":", " is not valid Unicode")) for reason in bad.values())


def test_a_key_that_the_type_lacks_is_named() -> None:
    _, bad = json_column([{"source": "web", "x" * 90: 1, "y": 1}], parse_type("struct<source: string>"))
    assert bad == {0: f": an object has the key '{'x' * 57}...', which struct<source: string> has not"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(JSON_VALUES, max_size=4))
def test_json_text_holds_any_value(values: list[Any]) -> None:
    column, bad = json_column(values, pa.json_())
    assert not bad
    assert [None if text is None else json.loads(text) for text in column.to_pylist()] == values


TYPES = st.sampled_from(
    ["int8", "int64", "uint64", "double", "bool", "string", "date32", "timestamp[us]", "list<int64>", "list<double>",
     "map<string, int64>", "struct<a: int64, b: list<string>>", "struct<a: double>"]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(JSON_VALUES, max_size=5), TYPES)
def test_a_value_is_the_same_or_is_named(values: list[Any], name: str) -> None:
    column, bad = json_column(list(values), parse_type(name))
    for place, (value, kept) in enumerate(zip(values, column.to_pylist(), strict=True)):
        if place in bad:
            assert kept is None
        else:
            assert same(value, kept), (value, kept)


def same(value: Any, kept: Any) -> bool:
    """Equal, and of the same kind: True is not 1. Numbers by value alone. A struct may add nulls."""
    if isinstance(value, dict):
        pairs = dict(kept)
        return all(same(item, pairs[key]) for key, item in value.items()) and all(
            pairs[key] is None for key in pairs.keys() - value.keys()
        )
    if isinstance(value, list):
        return len(value) == len(kept) and all(map(same, value, kept))
    if isinstance(value, str) and isinstance(kept, datetime.date):
        return kept.isoformat()[:10] == value[:10]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value == kept and (number or type(value) is type(kept))

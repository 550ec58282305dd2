"""Types inferred from JSON values: what holds all of them, or JSON text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.corpus.json_types import NoOneType, agree, infer, is_dictionary, storable
from tests.workers.reading.typed.test_json_values import JSON_VALUES, same
from workers.reading.typed.json_values import json_column
from workers.reading.typed.type_names import MOST_LEVELS, parse_type, type_name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2], "int64"),
        ([1, 0.5], "double"),
        ([2**63], "uint64"),
        ([True, False], "bool"),
        (["a"], "string"),
        ([None], "null"),
        ([[], [1], [None]], "list<int64>"),
        ([[]], "list<null>"),
        ([{"a": 1}, {"b": "x"}, {"a": None}], "struct<a: int64, b: string>"),
        ([{"tags": ["x"], "at": {"x": 0.5}}], "struct<tags: list<string>, at: struct<x: double>>"),
        ([{f"user{n}": n, f"user{n + 1}": 1} for n in range(30)], "map<string, int64>"),
        ([{"votes": {f"user{n}": n}} for n in range(30)], "struct<votes: map<string, int64>>"),
        ([{f"word{n * 70 + at}": [at] for at in range(70)} for n in range(2)], "map<string, list<int64>>"),
        ([{f"k{n}": n for n in range(600)}], "map<string, int64>"),
        ([{f"k{n}": n for n in range(300)}] * 2, type_name(pa.struct([(f"k{n}", pa.int64()) for n in range(300)]))),
    ],
)
def test_one_type(values: list[Any], expected: str) -> None:
    assert type_name(infer(values)) == expected


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1, "n/a", 2], r"of several kinds \(int, str\)"),
        ([1, True], "several kinds"),
        ([[1], {"a": 1}], "several kinds"),
        ([{"a": 1}, {"a": "x"}], "several kinds"),
        ([{f"user{n}": n if n % 2 else "x"} for n in range(30)], "several kinds"),
        ([2**64], "beyond 64 bits"),
        ([-1, 2**63], "beyond 64 bits"),
        ([2**53 + 1, 0.5], "not all of them exact"),
        ([{"half \ud83d": 1}], "not valid Unicode"),
    ],
)
def test_no_one_type(values: list[Any], why: str) -> None:
    with pytest.raises(NoOneType, match=why):
        infer(values)


def test_deep_values_have_no_type() -> None:
    deep: Any = 1
    for _ in range(MOST_LEVELS):
        deep = [deep]
    with pytest.raises(NoOneType, match="deeper than 32"):
        infer([deep])


@pytest.mark.parametrize(
    ("keys", "objects", "held", "expected"),
    [
        (7, 100, 100, False),  # few keys may all be names, however rare
        (8, 100, 200, True),
        (8, 100, 201, False),
        (64, 2, 64, True),
        (64, 2, 65, False),
        (512, 1, 512, False),
        (513, 1, 513, True),
        (0, 5, 0, False),
    ],
)
def test_dictionaries(keys: int, objects: int, held: int, expected: bool) -> None:
    assert is_dictionary(keys, objects, held) is expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "null"),
        (["int64", "double"], "double"),
        (["int64", "string"], "json"),
        (["json", "int64"], "json"),
        (["struct<a: int64>", "struct<b: string, a: double>"], "struct<a: double, b: string>"),
        (["map<string, int64>", "struct<a: int64, b: int64>"], "map<string, int64>"),
        (["map<string, int64>", "struct<a: string>"], "json"),
        (["list<int64>", "list<double>"], "list<double>"),
    ],
)
def test_agreement_of_samples(names: list[str], expected: str) -> None:
    for turn in (names, names[::-1]):
        agreed = agree(map(parse_type, turn))
        assert sorted(type_name(agreed)) == sorted(expected)
    assert agree([pa.null(), *map(parse_type, names), pa.null()]) == agree(map(parse_type, names))
    assert agree([pa.list_(pa.null()), parse_type("list<int64>")]) == parse_type("list<int64>")


def test_what_is_unknown_becomes_string() -> None:
    unknown = pa.struct([("a", pa.null()), ("b", pa.list_(pa.null())), ("c", pa.struct([])), ("d", pa.int64())])
    assert type_name(storable(unknown)) == "struct<a: string, b: list<string>, c: map<string, string>, d: int64>"
    assert storable(pa.null()) == pa.string()


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(JSON_VALUES, max_size=8))
def test_every_sampled_value_fits_the_inferred_type(values: list[Any]) -> None:
    try:
        kind = storable(infer(values))
    except NoOneType:
        return
    column, bad = json_column(list(values), kind)
    assert not bad
    assert all(map(same, values, column.to_pylist()))

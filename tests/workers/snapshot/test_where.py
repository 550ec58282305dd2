"""Conditions: the rows that DuckDB chooses, and refusals that say what is wrong."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from workers.errors import UsageError
from workers.snapshot.where import Where

TABLE = pa.table(
    {
        "id": pa.array([str(n) for n in range(8)]),
        "lang": pa.array(["de", "fr", None, "it's", "de", "", "DE", "fr"]).dictionary_encode(),
        "year": pa.array([2019, 2020, 2021, None, -5, 2020, 0, 127], pa.int16()),
        "score": pa.array([0.5, 1.5, None, -2.0, 1e300, 0.1, 0.0, 3.0]),
        "day": pa.array([date(2026, 1, n + 1) for n in range(8)]),
        "price": pa.array([Decimal("1.10"), None, *[Decimal(n) for n in range(6)]], pa.decimal128(9, 2)),
        "good": pa.array([True, False, None, True, False, True, None, False]),
        "two words": pa.array(list("abcdefgh")),
        "tags": pa.array([["x"], None, [], ["y"], ["x"], [], [], []]),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "lang = 'de'",
        "lang != 'de'",
        "lang <> 'it''s' AND year >= 2020",
        "not lang = 'de' or good = true",
        "lang in ('de', 'fr')",
        "lang not in ('de', 'fr')",
        "lang is null or year is not null and score > 1",
        "(lang is null or year is not null) and score > 1",
        "year > 1.5 and year < 1000000",
        "year in (2020, 0, 99999)",
        "year not in (2020)",
        "score >= .5 and score <= 1e10",
        "day >= '2026-01-03' and day < '2026-01-06'",
        "day in ('2026-01-01', '2026-01-08')",
        "price > 1 and price <= 4.5",
        "price in (1, 1.10)",
        "good = false",
        "not (good = false)",
        "\"two words\" >= 'c' and not not id < '6'",
        "tags is null",
        "lang=''",
        "year = -5",
    ],
)
def test_the_rows_that_duckdb_chooses(text: str) -> None:
    plain = TABLE.set_column(1, "lang", TABLE["lang"].cast(pa.string()))
    with duckdb.connect() as database:
        database.register("plain", plain)
        expected = database.sql(f"select id from plain where {text} order by id").fetchall()
    where = Where.parse(text, TABLE.schema)
    assert [name for name, chosen in zip(TABLE["id"].to_pylist(), where.rows(TABLE), strict=True) if chosen] == [
        name for (name,) in expected
    ]
    assert where.rows(TABLE.slice(0, 0)).shape == (0,)
    halves = pa.concat_tables([TABLE.slice(0, 3), TABLE.slice(3)])
    assert where.rows(halves.select(where.columns)).tolist() == where.rows(TABLE).tolist()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the end where a column should be named"),
        ("nope = 1", "the snapshot has no column nope; it has id, lang, year"),
        ("lang = de", "'de' where a value should be; text is written in single quotes"),
        ("lang = null", "write `is null`"),
        ("lang = 5", "column lang is dictionary"),
        ("year = '2020'", "column year is int16"),
        ("good = 1", "column good is bool"),
        ("day = 'yesterday'", "column day is date32"),
        ("tags = 'x'", "column tags is list"),
        ("lang % 2", "cannot be read from"),
        ("lang like 'd'", "'like' after column lang; write ="),
        ("lang = 'de' year = 1", "what is 'year' here"),
        ("(lang = 'de'", "the end where `)` should be"),
        ("lang in ()", "where a value should be"),
        ("lang = 'de", "cannot be read from"),
        ("and", "'and' where a column should be named"),
        ("; drop table x", "cannot be read from '; drop table x' on"),
        ("(" * 60 + "year = 1" + ")" * 60, "write it flatter"),
        ("not " * 60 + "year = 1", "write it flatter"),
    ],
)
def test_refusals(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        Where.parse(text, TABLE.schema)
    assert told in str(refused.value)
    assert str(refused.value).startswith("--where ")


def test_vectors_are_no_columns() -> None:
    with pytest.raises(UsageError, match="has no column embedding"):
        Where.parse("embedding is null", TABLE.schema.append(pa.field("embedding", pa.list_(pa.float32()))))

"""Type names as users write them, against Arrow's own types."""

from __future__ import annotations

import contextlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.reading.typed.type_names import parse_type, shown_names, shown_type, type_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int64", pa.int64()),
        (" UInt8 ", pa.uint8()),
        ("double", pa.float64()),
        ("float", pa.float32()),
        ("str", pa.string()),
        ("bool", pa.bool_()),
        ("date32", pa.date32()),
        ("date32[day]", pa.date32()),
        ("timestamp[us, UTC]", pa.timestamp("us", "UTC")),
        ("timestamp[ns, tz=Europe/Paris]", pa.timestamp("ns", "Europe/Paris")),
        ("timestamp[s]", pa.timestamp("s")),
        ("timestamp[ms, +02:00]", pa.timestamp("ms", "+02:00")),
        ("time32[ms]", pa.time32("ms")),
        ("time64[us]", pa.time64("us")),
        ("decimal(10, 2)", pa.decimal128(10, 2)),
        ("decimal128(38,38)", pa.decimal128(38, 38)),
        ("list<string>", pa.list_(pa.string())),
        ("list<item: int64>", pa.list_(pa.int64())),
        ("list<element: list<bool>>", pa.list_(pa.list_(pa.bool_()))),
        ("map<string, int64>", pa.map_(pa.string(), pa.int64())),
        (
            "struct<a: int64, b: string, two words: date32, \"a:b\": json>",
            pa.struct([("a", pa.int64()), ("b", pa.string()), ("two words", pa.date32()), ("a:b", pa.json_())]),
        ),
        ("map<string, list<struct<at: timestamp[us, UTC]>>>",
         pa.map_(pa.string(), pa.list_(pa.struct([("at", pa.timestamp("us", "UTC"))])))),
        ("json", pa.json_()),
    ],
)  # fmt: skip
def test_names(text: str, expected: pa.DataType) -> None:
    assert parse_type(text) == expected
    assert parse_type(type_name(expected)) == expected
    if '"' not in text:
        assert parse_type(str(expected)) == expected, "as Arrow itself writes it"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int46", "did you mean int64?"),
        ("strng", "did you mean string?"),
        ("list<sting>", "did you mean string?"),
        ("structure", "did you mean struct?"),
        ("whatever", "known: int64, double"),
        ("", "a type is missing"),
        ("timestamp", r"timestamp\[us\]"),
        ("timestamp[minutes]", r"timestamp\[us\]"),
        ("timestamp[us, Mars]", "no known time zone: Mars"),
        ("time64[us, UTC]", r"time64\[us\]"),
        ("decimal(99, 2)", "38 at most"),
        ("map<int64, string>", "no strings"),
        ("map<string>", ", is missing"),
        ("list<string", "> is missing at the end"),
        ("list<string>>", "ends before >"),
        ("struct<a>", "name: type"),
        ("struct<>", "name: type"),
        ("struct<a: int64, a: string>", "more than one field a"),
        ("list<" * 40 + "int64" + ">" * 40, "deeper than 32"),
        ("binary", "is no type: binary"),
    ],
)
def test_what_is_no_type_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_type(text)


@given(st.text(st.sampled_from('int64<>[](), :"strucmapliuUTC0'), max_size=40))
def test_no_text_is_anything_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_type(text), pa.DataType)


def test_names_in_messages() -> None:
    names = ["a", "x" * 100, "half \ud83d", "two\nlines", "nul\0", "größe 😀"]
    assert shown_names(names) == f"a, {'x' * 57}..., half \\ud83d, two\\nlines, nul\\x00, größe 😀"
    assert shown_names([str(number) for number in range(50)]).endswith("38, 39, ...")
    assert len(shown_type(pa.struct([(f"field_{number}", pa.string()) for number in range(100)]))) == 120

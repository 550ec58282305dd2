"""JSON arrays and documents, by json, pandas, Polars and DuckDB; JSON lines that are named .json; damage."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from tests.workers.corpus_files import COMPRESS, put
from tests.workers.planned_files import read_corpus
from workers.config import SourceFormat
from workers.errors import UsageError
from workers.reading.formats.json import resolve

ROWS = [
    {
        "id": f"doc-{number}",
        "text": f'{number} "quoted" \\ [brackets], {{braces}}\n日本 😀 {random.Random(number).randbytes(number % 99).hex()}',
        "tags": [str(number), None],
        "info": {"score": number / 8},
    }
    for number in range(5000)
]  # fmt: skip


def by_json(path: Path, rows: Any = ROWS, **options: Any) -> Path:
    return put(path, json.dumps(rows, **options).encode())


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}])
@pytest.mark.parametrize("suffix", ["", *COMPRESS])
def test_array_is_read_element_by_element(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    by_json(tmp_path / f"a.json{suffix}", **options)
    planned = read_corpus(tmp_path, 50_000, id="id", keep=["tags", "info"])
    (source,) = planned.corpus.objects
    assert source.format == "json"
    assert planned.slices_of(f"a.json{suffix}") == 1
    expected = [{"row": at} | row for at, row in enumerate(ROWS)]
    assert [_public(row) for row in planned.rows_of(f"a.json{suffix}")] == expected


def _public(row: dict[str, Any]) -> dict[str, Any]:
    return {"row": row["row"], "id": row["id"], "text": row["text"], "tags": row["keep.tags"], "info": row["keep.info"]}


def test_arrays_of_other_writers(tmp_path: Path) -> None:
    frame = pd.DataFrame([{"id": row["id"], "text": row["text"]} for row in ROWS])
    frame.to_json(tmp_path / "pandas.json", orient="records")
    duckdb.sql(f"COPY (SELECT * FROM frame) TO '{tmp_path / 'duckdb.json'}' (FORMAT json, ARRAY true)")
    pl.from_pandas(frame).write_json(tmp_path / "polars.json")
    planned = read_corpus(tmp_path, id="id")
    for name, expected in {
        "pandas.json": pd.read_json(tmp_path / "pandas.json", orient="records").to_dict("records"),
        "duckdb.json": pl.read_json(tmp_path / "duckdb.json").to_dicts(),
        "polars.json": pl.read_json(tmp_path / "polars.json").to_dicts(),
    }.items():
        assert [{"id": row["id"], "text": row["text"]} for row in planned.rows_of(name)] == expected
    assert not planned.quarantined


def test_one_document_a_file_and_ids_by_row_number(tmp_path: Path) -> None:
    for number in range(3):
        by_json(tmp_path / f"{number}.json", ROWS[number], indent=number or None)
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "blank.json").write_bytes(b" \n ")
    (tmp_path / "none.json").write_bytes(b"[ ]")
    planned = read_corpus(tmp_path)
    documents = [planned.rows_of(f"{number}.json") for number in range(3)]
    assert [[row["text"] for row in rows] for rows in documents] == [[ROWS[number]["text"]] for number in range(3)]
    assert documents[1][0]["id"].endswith("1.json#0")
    assert planned.rows_read == 3


def test_json_lines_named_json_are_read_as_lines_and_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Spark and BigQuery name them so."""
    caplog.set_level("INFO", "reembed")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "part-0.json").write_text(lines)
    (tmp_path / "part-1.json.gz").write_bytes(gzip.compress(lines.encode()))
    by_json(tmp_path / "array.json", ROWS[:5])
    planned = read_corpus(tmp_path, 200_000, id="id")
    assert [source.format for source in planned.corpus.objects] == ["json", "jsonl", "jsonl"]
    assert planned.slices_of("part-0.json") > 5
    texts = sorted(row["text"] for (name, _), row in planned.documents.items() if name == "part-1.json.gz")
    assert texts == sorted(row["text"] for row in ROWS)
    assert "2 objects are read as jsonl by their content" in caplog.text
    with pytest.raises(UsageError, match=r"part-0\.json: holds one JSON value a line.*corpus\.format: jsonl"):
        read_corpus(tmp_path, format="json")


def test_split_lines_named_json_lose_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    planned = read_corpus(tmp_path, 200_000)
    assert planned.slices_of("a.json") > 5
    assert [row["text"] for row in planned.rows_of("a.json")] == [row["text"] for row in ROWS]
    assert [row["id"].rpartition("#")[2] for row in planned.rows_of("a.json")] == [str(at) for at in range(len(ROWS))]


def test_malformed_elements_are_quarantined_one_by_one(tmp_path: Path) -> None:
    elements = [
        b'{"text": "good"}', b'"a string"', b"7", b"null", b"[1, 2]", b'{"text": }', b"{'text': 'x'}", b'{"text": "x"} {}',
        b'{"text": "caf\xe9"}', b'{"txt": "x"}', b'{"text": null}', b'{"text": "half \\ud83d"}', b"", b'{"text": "a]}"}}',
        b'{"text": "last, ] } \\" \\\\"}',
    ]  # fmt: skip
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf [" + b" ,\r\n".join(elements) + b"]\n")
    planned = read_corpus(tmp_path)
    assert {row["row"]: row["text"] for row in planned.rows_of("a.json")} == {0: "good", 14: 'last, ] } " \\'}
    reasons = planned.reasons("a.json")
    assert sorted(reasons) == list(range(1, 14))
    for row, words in {
        1: "element is not a JSON object but string", 2: "number", 3: "null", 4: "array", 5: "not valid JSON",
        6: "not valid JSON", 7: "Extra data", 8: "not valid UTF-8", 9: "text is missing", 10: "text is null",
        11: "not valid Unicode", 12: "not valid JSON", 13: "Extra data",
    }.items():  # fmt: skip
        assert words in reasons[row], row


@pytest.mark.parametrize("margin", range(-6, 7))
def test_elements_across_the_border_of_a_block(tmp_path: Path, margin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.reading.formats.json.BLOCK_BYTES", 64)
    rows = [{"text": "x" * (20 + margin) + '"\\😀]}', "n": 12345} for _ in range(50)]
    by_json(tmp_path / "a.json", rows, ensure_ascii=margin % 2 == 0)
    planned = read_corpus(tmp_path, keep=["n"])
    assert [row["text"] for row in planned.rows_of("a.json")] == [row["text"] for row in rows]
    assert not planned.quarantined


def test_long_elements_and_documents_are_followed_to_their_end_in_bounded_memory(tmp_path: Path) -> None:
    long = {"text": "ü" * (3 << 20)}
    by_json(tmp_path / "a.json", [ROWS[0], long, ROWS[1]], ensure_ascii=False)
    by_json(tmp_path / "b.json", long, ensure_ascii=False)
    planned = read_corpus(tmp_path, max_text_bytes=1 << 20)
    assert [row["row"] for row in planned.rows_of("a.json")] == [0, 2]
    size = len(json.dumps(long, ensure_ascii=False).encode())
    assert planned.reasons("a.json") == {1: f"element is too long ({size} bytes, corpus.max_text_bytes is 1048576)"}
    assert planned.reasons("b.json") == {0: f"document is too long ({size} bytes, corpus.max_text_bytes is 1048576)"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], r"after \d+ rows \(its array is not closed\)"),
        (lambda data: data[:-1], r"after 4999 rows \(its array is not closed\)"),
        (lambda data: data + b"[1]", r"after 5000 rows \(something follows its array\)"),
        (
            lambda data: b'[{"text": "a"}, {"text": "b}, {"text": "c"}, {"text": "d"}]',
            r"after 1 rows \(its array is not closed\)",
        ),
    ],
)
def test_damaged_arrays_are_named_and_nothing_of_them_is_lost_in_silence(tmp_path: Path, damage: Any, words: str) -> None:
    by_json(tmp_path / "good.json")
    path = by_json(tmp_path / "bad.json")
    path.write_bytes(damage(path.read_bytes()))
    planned = read_corpus(tmp_path, id="id")
    assert list(planned.lost) == ["bad.json"]
    assert re.search(words, planned.lost["bad.json"]), planned.lost
    assert len(planned.rows_of("good.json")) == len(ROWS)


def test_cut_compressed_array_is_named(tmp_path: Path) -> None:
    data = by_json(tmp_path / "a.json.gz").read_bytes()
    (tmp_path / "a.json.gz").write_bytes(data[: len(data) // 2])
    assert "truncated or corrupt gzip" in read_corpus(tmp_path).lost["a.json.gz"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'[{"text": "a"}]', "json"),
        (b'{"text": "a"}', "json"),
        (b'{"text": "a"}\n', "json"),
        (b'{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        (b'\xef\xbb\xbf\n{"text": "a"}\r\n\r\n{"text": "b"}', "jsonl"),
        (b'{\n  "text": "a",\n  "more": [\n{"x": 1}\n]\n}', "json"),
        (b'{"text": "a",\n"b": 1}', "json"),
        (b'{"text": "broken}\n{"text": "b"}\n', "jsonl"),
        (b'{"text": "a"} {}\n{"text": "b"}\n', "jsonl"),
        (b'null\n{"text": "b"}\n', "jsonl"),
        (b"no JSON at all\nat all", "json"),
        (b"", "json"),
        (b"[" * 5000, "json"),
    ],
)
def test_what_the_content_says_holds_for_every_beginning_that_says_anything(data: bytes, expected: str) -> None:
    assert resolve(data, True) is SourceFormat(expected)
    beginnings = {resolve(data[:size], False) for size in range(len(data) + 1)}
    assert beginnings <= {None, SourceFormat(expected)}


def test_format_json_is_taken_at_its_word(tmp_path: Path) -> None:
    by_json(tmp_path / "a.data", ROWS[:3])
    assert len(read_corpus(tmp_path, format="json").rows_of("a.data")) == 3

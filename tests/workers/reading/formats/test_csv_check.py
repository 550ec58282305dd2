"""A CSV object of another dialect is refused with the setting that mends it, and with that setting it is not."""

from __future__ import annotations

from typing import Any

import pytest

from workers.config import CorpusConfig, CsvConfig
from workers.reading.formats.csv_check import csv_error

ROWS = [("0", "how to read"), ("1", 'she said "no", and left'), ("2", "third")]


def error(data: str, name: str = "a.csv", complete: bool = True, **settings: Any) -> str | None:
    corpus = CorpusConfig(uri=["x"], id="id", csv=CsvConfig(**settings))
    return csv_error(data.encode(), complete, f"file:///x/{name}", corpus)


def lines(header: str, form: str, escaped: str = '""') -> str:
    return header + "".join(form.format(number, text.replace('"', escaped)) for number, text in ROWS)


@pytest.mark.parametrize(
    ("name", "data", "mend", "settings"),
    [
        ("a.csv", lines("id;text\r\n", '{};"{}"\r\n'), "delimiter: ';'", {"delimiter": ";"}),
        ("a.csv", lines("id|text\n", '{}|"{}"\n'), "delimiter: '|'", {"delimiter": "|"}),
        ("a.csv", "id\ttext\n0\tx\n", 'delimiter: "\\t"', {"delimiter": "\t"}),
        ("a.tsv", "id,text\n0,x\n", "delimiter: ','", {"delimiter": ","}),
        ("a.csv", lines("id,text\n", '"{}","{}"\n', '\\"'), "escape: '\\'", {"escape": "\\"}),
        ("a.csv", lines("id, text\n", '{}, "{}"\n'), "skip_blanks: true", {"skip_blanks": True}),
        ("a.csv", lines("", '{},"{}"\n'), "header: false", {"header": False, "columns": ["id", "text"]}),
        ("a.csv", lines("id,text\n", '{},"{}",\n'), "columns: [id, text, _]", {"columns": ["id", "text", "_"]}),
        ("a.csv", lines("Report of 2024\n\nid,text\n", '{},"{}"\n'), "skip_rows: 2", {"skip_rows": 2}),
        ("a.tsv", '"id"\t"text"\n"0"\t"x"\n', "quote: '\"'", {"quote": '"'}),
        ("a.tsv", 'id\ttext\n0\t"a\tb"\n1\t"say ""hi"""\n', "quote: '\"'", {"quote": '"'}),
        ("a.csv", "'id','text'\n'0','x'\n", 'quote: "\'"', {"quote": "'"}),
    ],
)
def test_each_dialect_is_refused_with_its_setting(name: str, data: str, mend: str, settings: dict[str, Any]) -> None:
    assert f"set corpus.csv.{mend}" in (error(data, name) or "")
    assert error(data, name, **settings) is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", "id,text\n0,x\n"),
        ("a.csv", ""),
        ("a.csv", "id,text\n"),
        ("a.csv", "\ufeffid,text\n0,x\n"),
        ("a.csv", "sep=;\nid;text\n0;x\n"),
        ("a.csv", "id,text\n0,x\n1,a,b\n2,y\n"),
        ("a.csv", 'id,text\n0,"bad" quote\n1,x\n'),
        ("a.csv", 'id,text\n0,"never closed\n1,x\n'),
        ("a.csv", "key,body\n0,x\n"),
        ("a.tsv", 'id\ttext\n0\t"Orlok"\n1\t"Open\n2\tcloses"\n'),
    ],
)
def test_what_is_not_the_whole_objects_fault(name: str, data: str) -> None:
    assert error(data, name) is None
    assert error(data, name, complete=False) is None


def test_carriage_returns_alone() -> None:
    assert "lines end with CR alone" in (error("id,text\r0,x\r") or "")
    assert error("id,text\r\n0,x\r\n") is None


def test_a_column_of_the_path_is_not_missed() -> None:
    corpus = CorpusConfig(uri=["x"], id="id", text=["text", "lang"])
    assert csv_error(b"id,text\n0,x\n", True, "file:///x/lang=en/a.csv", corpus) is None

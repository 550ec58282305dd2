"""Arrays, documents and lines of JSON are told apart, and objects that nobody can read row by row are named."""

from __future__ import annotations

import json

import pytest

from workers.reading.formats.json_shape import lines_error, whole_error

ROWS = [{"id": n, "text": f"text {n}"} for n in range(4)]


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]",
        "[\n" + json.dumps(ROWS[0]) + "\n]\n",
        json.dumps(ROWS[0], indent=1),
        json.dumps({"version": 1, "data": ROWS}, indent=1),
        json.dumps(ROWS, indent=2)[:60],
    ],
)
def test_what_is_no_lines(data: str) -> None:
    assert "set corpus.format: json" in (lines_error(data.encode()) or "")


@pytest.mark.parametrize(
    "data",
    [
        "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS[0]),
        json.dumps(ROWS[0])[:20],
        "",
        "[1, 2]\n[3]\n",
        "[]",
        '{"text": "cut\n{"text": "whole"}\n',
        "{\n" + json.dumps(ROWS[0]),
        "[{\n" + json.dumps(ROWS[0]) + "\n",
        "no json\nat all\n",
    ],
)
def test_what_may_be_lines(data: str) -> None:
    assert lines_error(data.encode()) is None


def test_objects_without_line_ends_are_named_in_either_format() -> None:
    data = "".join(map(json.dumps, ROWS)).encode()
    assert "without line ends between them" in (lines_error(data) or "")
    assert "without line ends between them" in (whole_error(data, True, ["text"]) or "")


def test_rows_within_a_document_are_found() -> None:
    wrapped = json.dumps({"version": "1.1", "data": ROWS}).encode()
    assert "the array under 'data'; write that alone" in (whole_error(wrapped, True, ["text"]) or "")
    assert whole_error(wrapped, True, ["version"]) is None, "the document itself has the column"
    assert whole_error(wrapped[:50], False, ["text"]) is None
    assert whole_error(json.dumps(ROWS).encode(), True, ["text"]) is None

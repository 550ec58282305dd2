"""Files of queries: both formats, and what cannot be used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given.tables import digests, first_of, read_table, require_distinct
from workers.errors import UsageError

COLUMNS = {"id": pa.string(), "text": pa.string()}


def _section(path: Path) -> EvaluateSection:
    return EvaluateSection.model_validate({"snapshot": "out", "task": "retrieve", "queries": str(path)})


def test_parquet_and_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"id": [1, 2], "text": ["one", "zwei"], "note": [None, None]}
    pq.write_table(pa.table(rows), tmp_path / "q.parquet")
    (tmp_path / "q.jsonl").write_text('{"id": 1, "text": "one"}\n{"text": "zwei", "id": 2}\n')
    expected = {"id": ["1", "2"], "text": ["one", "zwei"]}
    for name in ("q.parquet", "q.jsonl"):
        assert read_table(_section(tmp_path / name), "queries", COLUMNS).to_pydict() == expected
    monkeypatch.chdir(tmp_path)
    assert read_table(_section(Path("q.jsonl")), "queries", COLUMNS).to_pydict() == expected
    digest = hashlib.sha256((tmp_path / "q.jsonl").read_bytes()).hexdigest()
    assert digests(_section(Path("q.jsonl"))) == {"queries": digest}
    assert first_of(["c", "b", "a"]) == "a, b, c"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"id,text", "neither a .parquet nor a .jsonl file"),
        ("q.jsonl", b'{"id": ', "cannot be read"),
        ("q.parquet", b"PAR1", "cannot be read"),
        ("q.jsonl", b'{"id": "a", "words": "b"}\n', r"has no column text \(columns: id, words\)"),
        ("q.jsonl", b'{"id": "a", "text": null}\n{"id": "b", "text": "c"}\n', "text is null in 1 of 2 rows"),
        ("q.jsonl", b'{"id": "a", "text": "b"}\n{"id": "a", "text": "c"}\n', r"1 ids stand there more than once \(a\)"),
        ("q.jsonl", b'{"id": "a", "text": [1]}\n', "text is list"),
    ],
)
def test_a_file_of_queries_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        require_distinct(read_table(_section(tmp_path / name), "queries", COLUMNS)["id"], "evaluate.queries")

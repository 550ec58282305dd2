"""`reembed load` as a command: report, texts, refusals. Lance is the store; tests of each store are in stores/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.commands.load import load_text
from tests.local_replicas import local_run
from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors

pytest.importorskip("lance")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    publish_vectors(tmp_path / "out", unit_vectors(12))
    return tmp_path / "out"


def test_the_report(output: Path, tmp_path: Path) -> None:
    ended = local_run("load", "lancedb", output, tmp_path / "db", "--table", "docs", "--consumer", "me", "--json")
    assert ended.rc == 0, ended.log
    report = json.loads(ended.stdout)
    assert {name: report[name] for name in ("store", "table", "consumer", "added", "rows", "rows_in_store", "handed")} == {
        "store": "lancedb", "table": "docs", "consumer": "me", "added": 12, "rows": 12, "rows_in_store": 12, "handed": None,
    }  # fmt: skip
    assert report["acknowledged"] == report["to"]
    assert "12 added, 0 changed, 0 patched, 0 deleted; 12 rows" in load_text(report)
    again = local_run("load", "lancedb", output, tmp_path / "db", "--table", "docs", "--consumer", "me")
    assert again.stdout == f"lancedb table docs has {report['to']} already (12 rows)\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("oracle", "OUT", "x"), "no store of that name; known: pgvector, lancedb, qdrant"),
        (("lancedb", "OUT", "x", "--table", "A b"), "--table 'A b': up to 48 small letters"),
        (("lancedb", "OUT", "x", "--consumer", "a/b"), "--consumer 'a/b'"),
        (("lancedb", "EMPTY", "x"), "nothing is published there"),
    ],
)
def test_refusals(output: Path, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    places = {"OUT": output, "EMPTY": tmp_path / "empty", "x": tmp_path / "db"}
    ended = local_run("load", *(places.get(argument, argument) for argument in arguments))
    assert ended.rc == 2
    assert told in ended.log
    assert not (tmp_path / "db").exists()
    assert not (output / "runs" / "consumers").exists()


def test_several_vectors_a_row_are_refused(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "lists", unit_vectors(6), counts=[2, 4])
    ended = local_run("load", "lancedb", tmp_path / "lists", tmp_path / "db")
    assert ended.rc == 2
    assert "embedding is a list of vectors" in ended.log


def test_a_table_that_no_loader_made_is_left_alone(output: Path, tmp_path: Path) -> None:
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"x": [1]}), tmp_path / "db" / "embeddings.lance")
    ended = local_run("load", "lancedb", output, tmp_path / "db")
    assert ended.rc == 2
    assert "`reembed load` did not make" in ended.log
    assert lance.dataset(tmp_path / "db" / "embeddings.lance").count_rows() == 1

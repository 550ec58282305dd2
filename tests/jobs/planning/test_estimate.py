"""What `plan` guesses is left to embed, wherever in an object the new texts lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.plan import plan_run, plan_text
from jobs.embed.job import embed_corpus
from tests.jobs.nights import by_hand, corpus_of, rows, settings

COUNT = 3000
LARGE = {"shard_bytes": "64MiB"}


def lines(path: Path, texts: Sequence[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("id,text\n" + "".join(f"{at},{text}\n" for at, text in enumerate(texts)))
    else:
        path.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))


def texts(word: str) -> list[str]:
    return [f"{word} {at}" + " and some words" * 20 for at in range(COUNT)]


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_texts_that_changed_in_the_middle_or_were_appended(tmp_path: Path, minilm: Path, name: str) -> None:
    config = settings(tmp_path, minilm, run=LARGE)
    old, new = texts("old"), texts("new")
    lines(tmp_path / "corpus" / name, old)
    embed_corpus(config)
    third = COUNT // 3
    for changed in (old[:third] + new[:third] + old[third * 2 :], old[: third * 2] + new[:third]):
        lines(tmp_path / "corpus" / name, changed)
        planned = plan_run(config)
        assert planned["reuse"]["objects"]["changed"] == 1
        assert planned["rows_to_embed"] == pytest.approx(third, rel=0.6)
    lines(tmp_path / "corpus" / name, new)
    assert plan_run(config)["rows_to_embed"] == pytest.approx(COUNT, rel=0.3)


@pytest.mark.slow
def test_parts_that_are_gone_hold_nothing(tmp_path: Path, minilm: Path) -> None:
    config = settings(tmp_path, minilm, run=LARGE)
    corpus_of(tmp_path / "corpus", {"a": rows("a", 60)})
    data = Path(embed_corpus(config)["data"])
    corpus_of(tmp_path / "corpus", {"a": rows("a", 60, changed=10)})
    assert plan_run(config)["rows_to_embed"] == pytest.approx(10, abs=12)
    for path in data.iterdir():
        path.unlink()
    assert plan_run(config)["rows_to_embed"] == 60


@pytest.mark.slow
def test_hours_and_bytes_are_those_of_the_runs_that_measured_them(tmp_path: Path, minilm: Path) -> None:
    config = settings(tmp_path, minilm, cost={"gpu_hour_usd": 2.0})
    corpus_of(tmp_path / "corpus", {"a": rows("a", 60)})
    planned = plan_run(config)
    assert (planned["replica_hours"], planned["cost_usd"]) == (None, None)
    assert planned["rows_to_embed"] == planned["rows"] == 60
    assert "unknown before a first run" in plan_text(planned)
    summary = embed_corpus(config)
    path = tmp_path / "out/runs" / summary["run_id"] / "summary.json"
    path.write_text(json.dumps(summary | {"replica_hours": 0.5}))
    corpus_of(tmp_path / "corpus", {"b": rows("b", 60)})
    planned = plan_run(config)
    assert planned["tokens_per_second_per_replica"] == pytest.approx(summary["tokens"] / 1800, abs=0.1)
    assert planned["replica_hours"] == pytest.approx(planned["estimated_tokens"] / summary["tokens"] / 2, rel=0.01)
    assert planned["cost_usd"] == pytest.approx(2 * planned["replica_hours"], abs=1e-3)
    assert planned["output_bytes"] == round(120 * summary["output_bytes"] / 60)


@pytest.mark.slow
def test_replicas_without_work_are_a_warning(tmp_path: Path, minilm: Path) -> None:
    """One row group for eight replicas; of a corpus so small, nothing is said where the number is left open."""
    (tmp_path / "corpus").mkdir()
    ids, column = zip(*rows("a", 60), strict=True)
    pq.write_table(pa.table({"id": ids, "text": column}), tmp_path / "corpus" / "a.parquet")
    planned = plan_run(settings(tmp_path, minilm, cluster={"replicas": 8}))
    (warning,) = planned["warnings"]
    assert warning.startswith("7 of 8 replicas will be idle: ")
    assert "a.parquet: row group 0 has 60 rows, and a row group is not split (100% of the text to embed)" in warning
    assert f"  warning     {warning}" in plan_text(planned)
    assert plan_run(settings(tmp_path, minilm))["warnings"] == []

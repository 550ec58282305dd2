"""Nights on which output.vectors changes: what is reused, what the gate says, what readers get. Without Ray and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.commands.plan import plan_run
from jobs.commands.search import find
from jobs.config import RunConfig
from jobs.embed.job import embed_corpus
from jobs.planning.request import Request
from jobs.publish.open_snapshot import open_published
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, days_apart, rows, rows_of, settings
from workers.errors import UsageError

pytestmark = pytest.mark.slow
THREE: list[dict[str, Any]] = [
    {"name": "embedding", "type": "float32"},
    {"name": "cut", "dim": 8, "type": "int8"},
    {"name": "bits", "type": "binary"},
]


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


def with_columns(folder: Path, model: Path, vectors: list[dict[str, Any]] | None, **gate: Any) -> RunConfig:
    return settings(folder, model, output={"vectors": vectors} if vectors else {}, gate=gate)


def stored(summary: dict[str, Any], name: str) -> np.ndarray:
    """[rows, W], by id."""
    column = rows_of(summary["data"])[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def test_columns_come_stay_and_go(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(with_columns(tmp_path, small_model, None))
    vectors = stored(first, "embedding")

    second = embed_corpus(with_columns(tmp_path, small_model, THREE))
    assert second["published"], second["reasons"]
    assert (second["reused_rows"], second["reuse"]["carried_shards"]) == (80, 0), "made of what is there"
    np.testing.assert_array_equal(stored(second, "embedding"), vectors)
    np.testing.assert_array_equal(stored(second, "bits"), np.packbits(vectors > 0, axis=1))
    head = vectors[:, :8].astype(np.float64)
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    scale = second["int8_scales"]["cut"]
    assert 0.95 * np.abs(head).max() < scale * 127 / 1.05 <= np.abs(head).max() * (1 + 1e-6), "of a sample, plus 5%"
    assert np.abs(stored(second, "cut") - np.clip(np.rint(head / scale), -127, 127)).max() <= 1
    checks = {check["name"]: check for check in second["gate"]}
    assert checks["model_change"]["ok"], "a new column changes nothing for readers of the others"
    assert checks["columns"]["ok"]
    assert "bits 1.0000" in checks["columns"]["note"]

    corpus_of(tmp_path / "corpus", {"a": rows("a", 20, changed=2)})
    third = embed_corpus(with_columns(tmp_path, small_model, THREE))
    assert third["reuse"]["carried_shards"] == 6, "the same columns: unchanged objects are copied"
    assert third["reused_rows"] == 78
    assert third["int8_scales"] == second["int8_scales"]
    np.testing.assert_array_equal(stored(third, "bits")[20:], stored(second, "bits")[20:])

    fewer = with_columns(tmp_path, small_model, THREE[:2])
    fourth = embed_corpus(fewer)
    assert not fourth["published"]
    (reason,) = fourth["reasons"]
    assert reason.startswith("model_change: vectors.bits: binary of 32 -> none (gate.allow_model_change=false)")
    assert fourth["reused_rows"] == 80
    allowed = embed_corpus(with_columns(tmp_path, small_model, THREE[:2], allow_model_change=True))
    assert allowed["published"]
    assert "bits" not in rows_of(allowed["data"]).column_names


def test_a_plan_counts_all_columns(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    one, three = (plan_run(with_columns(tmp_path, small_model, columns)) for columns in (None, THREE))
    dim = Request.resolve(with_columns(tmp_path, small_model, None)).recipe.dim
    assert dim == 32
    assert three["output_bytes"] - one["output_bytes"] == pytest.approx(80 * (8 + dim // 8), abs=80)


def test_without_the_models_numbers_everything_is_embedded(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    half = [{"name": "embedding", "type": "float16"}, THREE[2]]
    embed_corpus(with_columns(tmp_path, small_model, half))
    second = embed_corpus(with_columns(tmp_path, small_model, [half[0], THREE[1]], allow_model_change=True))
    assert (second["reused_rows"], second["reuse"]["base"]) == (0, None)


def test_one_column_in_either_form_is_the_same_run(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    short = embed_corpus(settings(tmp_path, small_model, output={"vector": "int8"}))
    assert short["int8_scale"] == 0.01
    assert "int8_scales" not in short
    long = embed_corpus(with_columns(tmp_path, small_model, [{"name": "embedding", "type": "int8"}]))
    assert (long["run_id"], long["unchanged"]) == (short["run_id"], True)


def test_the_record_says_what_the_footers_say(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    entries = [{"name": "full"}, {"name": "embedding", "type": "int8", "dim": 16}]
    embed_corpus(with_columns(tmp_path, small_model, entries))
    run = open_published(str(tmp_path / "out"))
    assert (run.stamp.dim, run.stamp.vector, run.stamp.int8_scale) == (16, "int8", 0.01)
    assert [(form.column, form.dim, form.of) for form in run.formats] == [("embedding", 16, 32), ("full", 32, None)]
    import pyarrow.parquet as pq

    footer = pq.read_metadata(next(Path(tmp_path / "out/data").rglob("*.parquet"))).metadata
    for name, value in run.stamp.footer().items():
        assert footer[name.encode()].decode() == value
    table = rows_of(run.store.uri_of(run.paths.data))
    full = table["full"].combine_chunks().flatten().to_numpy().reshape(80, 32).astype(np.float64)
    hits = find(run, None, full[33:34].astype(np.float32), 5, None)
    head = full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True)
    expected = np.sort(head @ head[33])[::-1][:5]
    assert hits[0]["id"] == table["id"][33].as_py(), "a query is cut as the main column is"
    assert [hit["score"] for hit in hits] == pytest.approx(expected, abs=0.02)


def test_more_components_than_the_model_has(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    with pytest.raises(UsageError, match=r"output\.vectors: wide: dim=33: the model's vectors have 32 components"):
        embed_corpus(with_columns(tmp_path, small_model, [THREE[0], {"name": "wide", "dim": 33}]))
    with pytest.raises(UsageError, match=r"output\.vectors: id: is the name of another output column"):
        embed_corpus(with_columns(tmp_path, small_model, [THREE[0], {"name": "id"}]))
    assert not (tmp_path / "out").exists()

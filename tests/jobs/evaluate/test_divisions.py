"""Splits that do not leak: planted duplicates move the naive score, and not the grouped one; official splits; sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluate.classes import inputs
from jobs.passes.source import SourceSnapshot
from tests.jobs.evaluate.labelled import Rows, by_id, drawn, evaluated, publish, section_of
from workers.errors import UsageError
from workers.records.shard import Assignment, Receipt
from workers.vectors.derived import AlignedColumns, DerivedStamp
from workers.vectors.evaluation.classes import division
from workers.vectors.shard_rows import PartSpan, ShardRows
from workers.vectors.worker import VectorWorker, WorkerSettings

COPIES, DISTINCT = 6, 200


@pytest.fixture(scope="module")
def copied() -> Rows:
    """Noise with random labels, every row six times with the same text: there is nothing to learn but the copies."""
    draw = np.random.default_rng(2)
    vectors = draw.standard_normal((DISTINCT, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array(["left", "right", "up"])[draw.integers(0, 3, DISTINCT)]
    texts = [f"text {at}" for at in range(DISTINCT)]
    return Rows(np.tile(vectors, (COPIES, 1)), np.tile(labels, COPIES), texts * COPIES)


def test_equal_texts_do_not_leak(copied: Rows, tmp_path: Path) -> None:
    publish(tmp_path / "out", copied)
    outcome, _ = evaluated(section_of(tmp_path / "out"))
    facts = outcome.facts
    assert facts["knn_macro_f1"] < 0.5
    assert facts["macro_f1"] < 0.5
    assert facts["split"]["random"]["knn_macro_f1"] > 0.75, "a row's copies are its nearest neighbours"
    assert any("a random split leaks" in note for note in facts["notes"])
    tested = by_id(outcome.tables["predictions"])
    for at in range(DISTINCT):
        assert len({str(at + copy * DISTINCT) in tested for copy in range(COPIES)}) == 1
    leaking = evaluated(section_of(tmp_path / "out", split={"by": "random"}))[0].facts
    assert leaking["knn_macro_f1"] > 0.75
    assert "random" not in leaking["split"]


@dataclass(frozen=True)
class _Groups(AlignedColumns):
    """As `reembed dedup` writes them: rows that are copies have one group, every fifth row has none."""

    columns: tuple[str, ...] = ("id",)

    def added(self) -> pa.Schema:
        return pa.schema([pa.field("group", pa.int64())])

    def values(self, rows: ShardRows, part: PartSpan) -> Sequence[pa.Array]:
        names = rows.column("id").to_pylist()[part.first : part.first + part.rows]
        originals = [int(name) % DISTINCT for name in names]
        return [pa.array([None if at % 5 == 0 else at for at in originals], pa.int64())]


@pytest.fixture
def near(copied: Rows, tmp_path: Path) -> Path:
    """The copies in other words: their texts differ. With the groups of `reembed dedup` beside them."""
    texts = [f"words {at}" for at in range(len(copied.texts))]
    publish(tmp_path / "out", Rows(copied.vectors, copied.labels, texts))
    _write_groups(tmp_path / "out", tmp_path / "groups")
    return tmp_path / "out"


def _write_groups(output: Path, target: Path) -> None:
    source = SourceSnapshot.open(str(output), {}, "snapshot")
    made = DerivedStamp("20260101T000000Z-00000001", "dedup", source.run_id, source.uri)
    numbers = [shard.number for shard in source.shards]
    settings = WorkerSettings(
        str(output), str(target), source.schema, made, "test", ("id",), source.first_rows, numbers, 1 << 30, True
    )
    worker = VectorWorker(settings, "test")
    for epoch, shard in enumerate(source.shards):
        assert isinstance(worker.write(_Groups(), Assignment(shard, epoch + 1, 1)), Receipt)
    worker.close()


def test_groups_of_near_duplicates_do_not_leak(near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(run_id="20260101T000000Z-00000001", job="dedup")
    monkeypatch.setattr(inputs, "open_published", lambda *_: run)
    by_text = evaluated(section_of(near))[0].facts
    assert by_text["knn_macro_f1"] > 0.75, "their hashes differ: by=text is no help"
    split = {"by": "near", "groups": str(tmp_path / "groups")}
    outcome, _ = evaluated(section_of(near, split=split))
    assert outcome.facts["knn_macro_f1"] < by_text["knn_macro_f1"] - 0.15
    assert outcome.facts["split"]["random"]["knn_macro_f1"] > 0.75
    tested = by_id(outcome.tables["predictions"])
    for at in range(DISTINCT):
        together = {str(at + copy * DISTINCT) in tested for copy in range(COPIES)}
        assert len(together) == 1 or at % 5 == 0


def test_groups_of_another_snapshot_are_refused(
    near: Path, tmp_path: Path, copied: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(run_id="20260101T000000Z-00000001", job="dedup")
    monkeypatch.setattr(inputs, "open_published", lambda *_: run)
    publish(tmp_path / "other", copied)
    split = {"by": "near", "groups": str(tmp_path / "groups")}
    with pytest.raises(UsageError, match=r"evaluate\.split\.groups=.*run `reembed dedup` over this snapshot again"):
        evaluated(section_of(tmp_path / "other", split=split))


def test_an_official_split(tmp_path: Path) -> None:
    rows = drawn(600, seed=4)
    said = ["test" if at % 4 == 0 else "train" if at % 4 < 3 else "dev" for at in range(600)]
    publish(tmp_path / "out", rows, keep={"part": pa.array(said)})
    outcome, _ = evaluated(section_of(tmp_path / "out", split={"column": "part"}))
    assert {int(name) % 4 for name in by_id(outcome.tables["predictions"])} == {0}
    assert outcome.facts["training_rows"] <= 300
    assert outcome.facts["split"] == {"by": "column", "test": 0.2, "folds": 3}


def test_a_sample_keeps_rare_classes(tmp_path: Path) -> None:
    rows = drawn(2000, seed=6)
    publish(tmp_path / "out", rows)
    facts = evaluated(section_of(tmp_path / "out", sample=700))[0].facts
    used = facts["rows"] + facts["training_rows"]
    assert 600 < used < 1000
    names, counts = np.unique(rows.labels, return_counts=True)
    assert set(facts["classes"]) == set(names[counts > 10])


def test_a_small_sample_is_decoded_once_with_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "out", drawn(3000, seed=6))
    section = section_of(tmp_path / "out", sample=150)
    sparse = evaluated(section)[0]
    assert sparse.facts["rows"] + sparse.facts["training_rows"] < 3000 / division.SPARSE
    monkeypatch.setattr(division, "SPARSE", 10**9)
    dense = evaluated(section)[0]
    mine, theirs = by_id(sparse.tables["predictions"]), by_id(dense.tables["predictions"])
    assert mine.keys() == theirs.keys()
    assert [mine[row]["likely"] for row in mine] == [theirs[row]["likely"] for row in mine]
    assert sparse.facts["knn_macro_f1"] == dense.facts["knn_macro_f1"]
    assert sparse.facts["probe"]["loss"] == pytest.approx(dense.facts["probe"]["loss"], rel=1e-6)


def test_classes_of_one_row_and_rows_without_a_label(tmp_path: Path) -> None:
    rows = drawn(600, seed=7)
    labels: list[str | None] = list(rows.labels)
    labels[5], labels[6], labels[7] = "alone", None, None
    publish(tmp_path / "out", Rows(rows.vectors, np.array(labels, object), rows.texts))
    facts = evaluated(section_of(tmp_path / "out"))[0].facts
    assert facts["excluded_classes"]["alone"] == 1
    assert "alone" not in facts["classes"]
    assert facts["unlabelled_rows"] == 2
    assert facts["rows"] + facts["training_rows"] == 600 - 2 - sum(facts["excluded_classes"].values())


def test_shards_without_any_label(tmp_path: Path) -> None:
    rows = drawn(600, seed=14)
    labels = np.array([None if at < 250 else name for at, name in enumerate(rows.labels)], object)
    publish(tmp_path / "out", Rows(rows.vectors, labels, rows.texts))
    outcome, _ = evaluated(section_of(tmp_path / "out"))
    assert outcome.facts["unlabelled_rows"] == 250
    assert min(map(int, by_id(outcome.tables["label_issues"]))) >= 250

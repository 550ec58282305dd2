"""Two classes, several labels a row, label issues, and two snapshots compared: against references in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from jobs.evaluate import classify
from jobs.evaluate.classes import inputs
from tests.jobs.evaluate.labelled import Rows, by_id, drawn, evaluated, publish, section_of
from workers.errors import UsageError
from workers.table.paths import RunPaths
from workers.vectors.evaluation.classes.paired import compare


def test_two_classes_are_scikit_learns_binary_regression(tmp_path: Path) -> None:
    rows = drawn(700, seed=3, noise=1.5)
    labels = np.where(rows.labels == "class 0", "yes", "no")
    publish(tmp_path / "out", Rows(rows.vectors * 7, labels, rows.texts))  # not of length 1: C is meant for those
    outcome, _ = evaluated(section_of(tmp_path / "out", c=[1.0]), exact=True)
    told = by_id(outcome.tables["predictions"])
    tested = np.array([str(at) in told for at in range(700)])
    scale = np.sqrt((rows.vectors[~tested].astype(np.float64) ** 2).sum(axis=1).mean())
    probe = LogisticRegression(C=1.0, tol=1e-9).fit(rows.vectors[~tested] / scale, labels[~tested])
    expected = probe.decision_function(rows.vectors[tested] / scale)  # log-odds of `yes`
    mine = np.array([told[str(at)]["score"] for at in np.flatnonzero(tested)])
    np.testing.assert_allclose(np.where(labels[tested] == "yes", mine, -mine), expected, atol=0.02)


@pytest.mark.slow
def test_several_labels_a_row(tmp_path: Path) -> None:
    draw = np.random.default_rng(8)
    vectors = draw.standard_normal((900, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    planes = draw.standard_normal((12, 4))
    truth = (vectors @ planes + 0.3 * draw.standard_normal((900, 4))) > np.array([0.0, 0.5, 0.8, -0.5])
    names = np.array(["a", "b", "c", "d"])
    lists = pa.array([names[row].tolist() for row in truth], pa.list_(pa.string()))
    texts = [f"text {at}" for at in range(900)]
    publish(tmp_path / "out", Rows(vectors, np.array(["x"] * 900), texts), keep={"tags": lists, "part": _parts(900)})
    section = section_of(tmp_path / "out", label="tags", split={"column": "part"})
    outcome, _ = evaluated(section, exact=True)
    facts = outcome.facts
    tested = np.arange(900) % 3 == 0
    probe = OneVsRestClassifier(LogisticRegression(C=10.0, tol=1e-9)).fit(vectors[~tested], truth[~tested])
    said = probe.predict(vectors[tested])
    assert facts["rows"] == 300, "a row without any label is a row"
    assert facts["macro_f1"] == pytest.approx(f1_score(truth[tested], said, average="macro"), abs=0.003)
    assert facts["micro_f1"] == pytest.approx(f1_score(truth[tested], said, average="micro"), abs=0.003)
    assert facts["accuracy"] == pytest.approx((said == truth[tested]).all(axis=1).mean(), abs=0.01)
    assert 0.5 < facts["knn_macro_f1"] <= 1
    assert set(outcome.tables) == {"scores", "roc", "precision_recall"}
    with pytest.raises(UsageError, match=r"evaluate\.against: rows with several labels"):
        evaluated(section_of(tmp_path / "out", label="tags", against=str(tmp_path)))


def _parts(rows: int) -> pa.Array:
    return pa.array(["test" if at % 3 == 0 else "train" for at in range(rows)])


def test_planted_label_errors_lead_the_ranking(tmp_path: Path) -> None:
    rows, draw = drawn(1200, seed=9, noise=0.4), np.random.default_rng(0)
    wrong = draw.permutation(1200)[:60]
    labels = rows.labels.copy()
    for at in wrong:
        labels[at] = draw.choice([name for name in np.unique(rows.labels) if name != rows.labels[at]])
    publish(tmp_path / "out", Rows(rows.vectors, labels, rows.texts))
    issues = evaluated(section_of(tmp_path / "out"))[0].tables["label_issues"].to_pylist()
    assert [row["score"] for row in issues] == sorted(row["score"] for row in issues)
    found = {int(row["id"]) for row in issues[:60]}
    assert len(found & set(wrong.tolist())) >= 50
    right = [row["likely"] == rows.labels[int(row["id"])] for row in issues[:60]]
    assert np.mean(right) > 0.8
    assert issues[0]["given"] == labels[int(issues[0]["id"])]


@pytest.mark.slow
def test_two_snapshots_of_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(1500, seed=11)
    worse = Rows(rows.vectors[:, :5].copy(), rows.labels, rows.texts)  # fewer components
    publish(tmp_path / "good", rows)
    publish(tmp_path / "bad", worse, shards=3)
    good, bad = (evaluated(section_of(tmp_path / name))[0] for name in ("good", "bad"))
    data = tmp_path / "evaluation" / "data" / "run"
    data.mkdir(parents=True)
    pq.write_table(bad.tables["predictions"], data / "predictions.parquet")
    stored = SimpleNamespace(read=lambda path: (tmp_path / "evaluation" / path).read_bytes())
    run = SimpleNamespace(run_id="run", paths=RunPaths("run"), job="evaluate", store=stored)
    monkeypatch.setattr(inputs, "open_published", lambda *_: run)
    section = section_of(tmp_path / "good", against=str(tmp_path / "evaluation"))
    facts = evaluated(section)[0].facts
    compared = facts["against"]
    assert compared["rows"] == good.facts["rows"]
    assert compared["verdict"] == "better"
    assert compared["macro_f1"] == pytest.approx(good.facts["macro_f1"], abs=1e-12)
    assert compared["other_macro_f1"] == pytest.approx(bad.facts["macro_f1"], abs=1e-12)
    reverse = compare(bad.tables["predictions"], good.tables["predictions"])
    assert reverse is not None
    assert reverse.verdict == "worse"
    name, here, there = reverse.lost[0]
    assert here == pytest.approx(bad.facts["classes"][name]["f1"], abs=1e-12)
    assert there == pytest.approx(good.facts["classes"][name]["f1"], abs=1e-12)
    row, given, said = reverse.examples[0]
    assert by_id(bad.tables["predictions"])[row]["likely"] == said != given
    assert by_id(good.tables["predictions"])[row]["likely"] == given
    low, high = compared["accuracy_interval"]
    assert low < good.facts["accuracy"] - bad.facts["accuracy"] < high
    assert any("better" in line for line in classify.text(facts))
    same = compare(good.tables["predictions"], good.tables["predictions"])
    assert same is not None
    assert (same.verdict, same.macro_f1_interval) == ("undecided", (0.0, 0.0))
    assert compare(good.tables["predictions"], bad.tables["predictions"].slice(0, 0)) is None

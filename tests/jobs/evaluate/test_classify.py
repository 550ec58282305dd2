"""Task classify over shards against scikit-learn in memory, on the same training and test rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from jobs.evaluate import classify
from jobs.passes.kind import Outcome
from tests.jobs.evaluate.labelled import Rows, by_id, drawn, evaluated, frozen, publish, section_of
from tests.vector_snapshots import MemoryJournal

ROWS = 1500


@pytest.fixture(scope="module")
def rows() -> Rows:
    return drawn(ROWS)


@pytest.fixture(scope="module")
def output(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "out"
    publish(folder, rows)
    return folder


@pytest.fixture(scope="module")
def outcome(output: Path) -> Outcome:
    return evaluated(section_of(output), exact=True)[0]


def _tested(outcome: Outcome) -> np.ndarray:
    tested = np.zeros(ROWS, bool)
    tested[[int(name) for name in outcome.tables["predictions"].column("id").to_pylist()]] = True
    return tested


@pytest.mark.slow
def test_the_probe_is_scikit_learns(rows: Rows, outcome: Outcome) -> None:
    tested, facts = _tested(outcome), outcome.facts
    assert 0.15 < tested.mean() < 0.25
    probe = LogisticRegression(C=10.0, tol=1e-8, max_iter=10_000).fit(rows.vectors[~tested], rows.labels[~tested])
    said, given = probe.predict(rows.vectors[tested]), rows.labels[tested]
    mine = by_id(outcome.tables["predictions"])
    same = np.mean([mine[str(row)]["likely"] == name for row, name in zip(np.flatnonzero(tested), said, strict=True)])
    assert same >= 0.993
    assert facts["macro_f1"] == pytest.approx(f1_score(given, said, average="macro"), abs=0.002)
    assert facts["accuracy"] == pytest.approx((said == given).mean(), abs=0.004)
    assert facts["log_loss"] == pytest.approx(log_loss(given, probe.predict_proba(rows.vectors[tested])), rel=1e-3)
    probabilities = probe.predict_proba(rows.vectors[tested])
    odds = np.log(probabilities) - np.log1p(-probabilities)
    for at, name in enumerate(probe.classes_):
        found = facts["classes"][name]
        assert found["auc"] == pytest.approx(roc_auc_score(given == name, odds[:, at]), abs=1e-3)
        assert found["average_precision"] == pytest.approx(average_precision_score(given == name, odds[:, at]), abs=0.02)
        assert found["rows"] == (given == name).sum()
    assert facts["probe"]["fold_passes"] + facts["probe"]["final_passes"] <= 72


def test_figures_are_those_of_its_own_predictions(outcome: Outcome) -> None:
    table, facts = outcome.tables["predictions"], outcome.facts
    given, likely = table.column("given").to_pylist(), table.column("likely").to_pylist()
    for name in ("macro", "micro", "weighted"):
        assert facts[f"{name}_f1"] == pytest.approx(f1_score(given, likely, average=name), abs=1e-12)
    low, high = facts["intervals"]["macro_f1"]
    assert low < facts["macro_f1"] < high
    assert high - low < 0.2
    names = sorted(facts["classes"])
    expected = confusion_matrix(given, likely, labels=names)
    for row in outcome.tables["confusion"].to_pylist():
        assert expected[names.index(row["given"]), names.index(row["predicted"])] == row["rows"]
    confidence = np.array(table.column("confidence"))
    right = np.array(given) == np.array(likely)
    bins = np.ceil(confidence.astype(np.float64) * 15).astype(int)
    expected_error = sum(
        abs(right[bins == at].mean() - confidence[bins == at].mean()) * (bins == at).mean() for at in np.unique(bins)
    )
    assert facts["calibration_error"] == pytest.approx(expected_error, abs=1e-5)


def test_neighbours_are_scikit_learns(rows: Rows, outcome: Outcome) -> None:
    tested = _tested(outcome)
    near = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(rows.vectors[~tested], rows.labels[~tested])
    said, given = near.predict(rows.vectors[tested]), rows.labels[tested]
    assert outcome.facts["knn_rows"] == tested.sum()
    assert outcome.facts["knn_macro_f1"] == pytest.approx(f1_score(given, said, average="macro"), abs=1e-9)


@pytest.mark.slow
def test_same_bits_whatever_the_threads_and_after_every_kill(output: Path, outcome: Outcome) -> None:
    section, journal = section_of(output), MemoryJournal()
    assert frozen(evaluated(section, threads=3, journal=journal, exact=True)[0]) == frozen(outcome)
    places = sorted(journal.kept)
    for left in (1, len(places) // 2, len(places) - 1):
        partly = MemoryJournal()
        partly.kept = {place: journal.kept[place] for place in places[: left + 1]}
        resumed, done = evaluated(section, threads=2, journal=partly, exact=True)
        assert frozen(resumed) == frozen(outcome)
        assert len(done) == len(places) - left - 1


@pytest.mark.slow
def test_other_shards_give_the_same_rows_and_all_but_the_same_figures(rows: Rows, outcome: Outcome, tmp_path: Path) -> None:
    order = np.random.default_rng(5).permutation(ROWS)
    mixed = Rows(rows.vectors[order], rows.labels[order], [rows.texts[at] for at in order])
    publish(tmp_path / "out", mixed, shards=2, ids=[str(at) for at in order], partition_by=["lang"])
    other = evaluated(section_of(tmp_path / "out"), exact=True)[0]
    mine, theirs = by_id(outcome.tables["predictions"]), by_id(other.tables["predictions"])
    assert mine.keys() == theirs.keys()
    assert np.mean([mine[row]["likely"] == theirs[row]["likely"] for row in mine]) > 0.99
    assert other.facts["macro_f1"] == pytest.approx(outcome.facts["macro_f1"], abs=0.003)


def test_the_best_c_is_chosen(output: Path) -> None:
    facts = evaluated(section_of(output, c=[1e-4, 10.0]))[0].facts
    assert facts["probe"]["c"] == 10.0
    assert facts["probe"]["candidates"]["10.0"] > facts["probe"]["candidates"]["0.0001"]
    assert [point["share"] for point in facts["learning_curve"]] == [0.1, 0.25, 0.5, 1.0]
    assert facts["learning_curve"][-1]["macro_f1"] == facts["macro_f1"]


def test_lines_for_a_terminal(outcome: Outcome) -> None:
    lines = classify.text(outcome.facts)
    assert lines[0].startswith("lang: 7 classes")
    assert "macro-F1" in lines[1]

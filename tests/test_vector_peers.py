"""Benchmarks of the jobs over vectors: AUC from bins as others compute it, who takes part, the table."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import binned_auc
from benchmarks.contestants import environments
from benchmarks.vector_peers import table
from benchmarks.vector_peers.roster import ROSTER, TASKS

FOLDER = Path(table.__file__).parent


def _scores(spread: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    truth = draw.random(4000) < 0.1
    return (spread * (draw.standard_normal(4000) + 1.5 * truth)).astype(np.float32), truth


def test_formulas_of_others_are_near_where_bins_hold_few_rows() -> None:
    odds, truth = _scores(1.0)
    exact = roc_auc_score(truth, odds)
    assert binned_auc.keras_auc(binned_auc.probabilities(odds), truth) == pytest.approx(exact, abs=1e-3)
    assert binned_auc.spark_auc(odds, truth) == pytest.approx(exact, abs=1e-3)
    assert binned_auc.spark_auc(odds[:1500], truth[:1500]) == pytest.approx(
        roc_auc_score(truth[:1500], odds[:1500]), abs=1e-12
    )


def test_equal_thresholds_fail_on_sure_scores() -> None:
    odds, truth = _scores(1.0)
    sure = (40 * odds - 90).astype(np.float32)
    assert abs(binned_auc.keras_auc(binned_auc.probabilities(sure), truth) - roc_auc_score(truth, sure)) > 0.1


def test_a_bound_that_does_not_hold_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "HOME", tmp_path)
    odds, truth = _scores(1.0)
    exact = roc_auc_score(truth, odds)
    both, labels = np.stack([odds, odds], axis=1), np.stack([truth, truth], axis=1)
    told = [{"auc": exact + 1e-5, "auc_bound": 2e-5}, {"auc": exact + 1e-3, "auc_bound": 2e-5}]
    found = binned_auc.same_scores(both, labels, told, tmp_path)
    assert (found["classes"], found["bound_violations"]) == (2, 1)
    ours = found["auc"]["reembed, 4,096 bins of log-odds"]
    assert (ours["classes_above_1e-4"], ours["worst"]) == (1, pytest.approx(1e-3))
    assert "--install" in found["left_out"]


def test_everyone_can_be_found() -> None:
    for who in ROSTER:
        body = ast.parse((FOLDER / f"{who.module}.py").read_text()).body
        assert who.function in {node.name for node in body if isinstance(node, ast.FunctionDef)}
        assert who.task in TASKS
        assert who.environment in ("", *environments.NAMES)


def test_the_table_leaves_out_who_did_not_take_part() -> None:
    spent = {"cpu_seconds": 2.0, "seconds": 2.1, "peak_mib": 500.0, "before_mib": 300.0}
    found = {
        "cluster": {"v_measure": 0.4, "inertia": 101.0, **spent},
        "faiss_kmeans": {"v_measure": 0.41, "inertia": 100.0, **spent},
    }
    rows = table.rows_of({"contestants": found})
    assert [row[1] for row in rows] == ["reembed cluster", "faiss Kmeans, 25 iterations"]
    assert rows[0][2:] == ("V-measure 0.4000; inertia 1.0100 of faiss's", "2.0", "500", "300")

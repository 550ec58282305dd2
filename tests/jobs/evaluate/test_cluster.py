"""The task `cluster`: its V-measure against scikit-learn's for the same centroids; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import v_measure_score

from jobs.evaluate import cluster
from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Outcome
from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors
from workers.errors import UsageError

ROWS, DIM = 1500, 8


@pytest.fixture(scope="module")
def labelled() -> tuple[np.ndarray, list[str | None]]:
    draw = np.random.default_rng(2)
    group = draw.integers(0, 5, ROWS)
    vectors = (draw.standard_normal((5, DIM))[group] * 2 + draw.standard_normal((ROWS, DIM))).astype(np.float32)
    return vectors, [None if row % 9 == 0 else f"class {group[row]}" for row in range(ROWS)]


@pytest.fixture(scope="module")
def output(labelled: tuple[np.ndarray, list[str | None]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "out"
    keep = {
        "label": pa.array(labelled[1]),
        "one": pa.array(["only"] * ROWS),
        "rare": pa.array(["a" if row < 100 else None for row in range(ROWS)]),
        "real": pa.array(np.arange(ROWS) / 7),
        "many": pa.array([["a"]] * ROWS),
    }
    publish_vectors(folder, labelled[0], keep=keep, shards=4)
    return folder


def _evaluate(output: Path, threads: int = 1, journal: MemoryJournal | None = None, **settings: Any) -> Outcome:
    section = EvaluateSection.model_validate({"snapshot": str(output), "task": "cluster", "label": "label", **settings})
    with passes_over(output) as passes:
        columns = cluster.check(passes.source, section)
    with passes_over(output, columns, threads=threads, journal=journal) as passes:
        return cluster.evaluate(passes, section, None)


def test_equal_to_scikit_learn_for_the_same_centroids(output: Path, labelled: tuple[np.ndarray, list[str | None]]) -> None:
    journal = MemoryJournal()
    outcome = _evaluate(output, journal=journal)
    last = [value for _, (name, _, value) in sorted(journal.kept.items()) if name == "LloydPass"][-1]
    centroids = last["sums"] / np.linalg.norm(last["sums"], axis=1, keepdims=True)
    rows = [row for row, label in enumerate(labelled[1]) if label is not None]
    nearest = np.argmax(labelled[0][rows] @ centroids.T.astype(np.float32), axis=1)
    expected = v_measure_score([labelled[1][row] for row in rows], nearest)
    assert outcome.facts["v_measure"] == pytest.approx(expected, abs=1e-6)
    assert outcome.facts["v_measure"] > 0.5
    assert (outcome.facts["classes"], outcome.facts["clusters"], outcome.facts["labelled"]) == (5, 5, len(rows))
    assert sum(outcome.tables["contingency"]["rows"].to_pylist()) == len(rows)
    assert "5 classes in 5 clusters" in cluster.text(outcome.facts)[0]
    for threads in (2, 3):
        assert _evaluate(output, threads).facts == outcome.facts
    assert _evaluate(output, clusters=9).facts["clusters"] == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": None}, "needs evaluate.label"),
        ({"label": "section"}, "evaluate.label: section is not in the snapshot"),
        ({"label": "one"}, "one has 1 classes"),
        ({"label": "rare"}, "rare is null in 1,400 of 1,500 rows"),
        ({"label": "real"}, "real is double, .*; cut it into classes"),
        ({"label": "many"}, "many is list<.*>, .*; name a column of one class a row"),
        ({"clusters": 2000}, "2,000 clusters of 1,333 distinct texts"),
    ],
)
def test_refusals(output: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _evaluate(output, **settings)

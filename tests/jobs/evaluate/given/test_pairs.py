"""The task `pairs`: ids and texts against SciPy on cosines by NumPy; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given import pairs
from jobs.passes.kind import Outcome
from tests.jobs.evaluate.given_texts import use_drawn_embedder, vector_of
from tests.vector_snapshots import passes_over, publish_vectors
from workers.errors import UsageError

ROWS = 60
FIRST, SECOND = list(range(50)), list(range(10, 60))
SCORES = [float(at % 5) for at in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    publish_vectors(folder / "out", np.stack([vector_of(f"text {row}") for row in range(ROWS)]), shards=3)
    return folder


def _evaluate(folder: Path, columns: dict[str, Any], **settings: Any) -> Outcome:
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    given = {"snapshot": str(folder / "out"), "task": "pairs", "pairs": str(folder / "pairs.parquet"), **settings}
    section = EvaluateSection.model_validate(given)
    with passes_over(folder / "out", ["id"]) as passes:
        assert pairs.check(passes.source, section) == ("id",)
        return pairs.evaluate(passes, section, None)


def _expected(name: str) -> tuple[float, float]:
    found = []
    for one, other in zip(FIRST, SECOND, strict=True):
        left, right = (vector_of(name.format(row)).astype(np.float64) for row in (one, other))
        found.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
    return float(stats.spearmanr(found, SCORES).statistic), float(stats.pearsonr(found, SCORES).statistic)


def test_ids_and_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = use_drawn_embedder(monkeypatch)
    ids = {"id_1": list(map(str, FIRST)), "id_2": list(map(str, SECOND)), "score": SCORES}
    outcome = _evaluate(folder, ids)
    assert (outcome.facts["spearman"], outcome.facts["pearson"]) == pytest.approx(_expected("text {}"), abs=1e-9)
    assert outcome.tables["pairs"]["score"].to_pylist() == SCORES
    assert "50 pairs: Spearman" in pairs.text(outcome.facts)[0]
    assert "text" not in loads
    words = {"text_1": [f"word {at}" for at in FIRST], "text_2": [f"word {at}" for at in SECOND], "score": SCORES}
    outcome = _evaluate(folder, words)
    assert (outcome.facts["spearman"], outcome.facts["pearson"]) == pytest.approx(_expected("word {}"), abs=1e-9)
    assert [load["query"] for load in loads] == [False]
    assert len(_evaluate(folder, ids, sample=20).tables["pairs"]) == 20


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"id_1": ["1", "2", "x9"], "id_2": ["3", "x8", "4"], "score": [1, 2, 3]},
            r"2 ids are not in the snapshot .*\(x8, x9\)",
        ),
        (
            {"id_1": ["1", "2"], "id_2": ["3", "4"], "score": [1, 2]},
            "2 pairs with 2 different scores; a correlation needs 3",
        ),
        ({"id_1": ["1"] * 3, "id_2": ["3", "4", "5"], "score": [1, 1, 1]}, "3 pairs with 1 different scores"),
        ({"id_1": ["1"] * 3, "id_2": ["3", "4", "5"], "score": [1, 2, np.nan]}, "1 scores are NaN or infinite"),
        ({"id_1": ["1"] * 3, "id_2": ["3"] * 3, "score": [1, 2, 3]}, "all cosines are equal"),
        ({"id_1": ["1"], "id_2": ["2"]}, "has no column score"),
        ({"id_1": ["1"], "id_2": ["2"], "score": ["high"]}, "score is string, not double"),
    ],
)
def test_refusals(folder: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _evaluate(folder, columns)

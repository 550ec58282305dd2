"""The gate and several columns of vectors: agreement measured against NumPy, and which change of columns is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.vector_snapshots
from jobs.config import GateConfig
from jobs.publish.gate.checks import check_run, failed
from jobs.publish.gate.figures import Figures, load_figures, save_figures
from jobs.publish.gate.samples import measure_agreement
from jobs.publish.open_snapshot import open_published
from tests.jobs.publish.gate.test_checks import facts
from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.config import VectorType
from workers.storage.store import Store

BESIDE: list[dict[str, Any]] = [
    {"name": "bits", "type": "binary"},
    {"name": "codes", "type": "int8"},
    {"name": "cut", "type": "float16", "dim": 12},
]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def test_each_column_is_compared_with_the_most_exact_one(tmp_path: Path) -> None:
    vectors = unit_vectors(200, 24)
    publish_vectors(tmp_path / "out", vectors, beside=BESIDE)
    found = measure_agreement(open_published(str(tmp_path / "out")))
    codes = np.clip(np.rint(vectors / 0.01), -127, 127) * 0.01
    assert found == {
        "bits": pytest.approx(1, abs=1e-9),
        "codes": pytest.approx(cosine(codes, vectors), abs=1e-6),
        "cut": pytest.approx(1, abs=1e-5),
    }


def test_the_main_column_may_be_the_rounded_one(tmp_path: Path) -> None:
    vectors = unit_vectors(100, 24)
    publish_vectors(tmp_path / "out", vectors, vector=VectorType.BINARY, beside=[{"name": "full"}])
    assert measure_agreement(open_published(str(tmp_path / "out"))) == {"embedding": pytest.approx(1, abs=1e-9)}


def test_a_column_of_other_rows_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(100, 24)
    real = tests.vector_snapshots.derived
    monkeypatch.setattr(
        tests.vector_snapshots,
        "derived",
        lambda vectors_ND, form, **more: real(np.roll(vectors_ND, 1, axis=0), form, **more),
    )
    publish_vectors(tmp_path / "out", vectors, beside=BESIDE)
    found = measure_agreement(open_published(str(tmp_path / "out")))
    assert max(found.values()) < 0.5


def figures(columns: dict[str, str], **agreement: float) -> Figures:
    return Figures("run", {"dim": 24, "vector": "float32"} | columns, {"documents": 1, "rows_read": 1}, agreement=agreement)


def test_new_columns_are_no_change_of_the_model_and_lost_ones_are() -> None:
    one, two = figures({}), figures({"vectors.bits": "binary of 24"})
    assert two.changes(one) == []
    assert one.changes(two) == ["vectors.bits: binary of 24 -> none"]
    assert figures({"vectors.bits": "int8 of 24"}).changes(two) == ["vectors.bits: binary of 24 -> int8 of 24"]


@pytest.mark.parametrize(
    ("agreement", "ok"), [({"bits": 0.95, "codes": 0.99}, True), ({"bits": 0.95, "codes": 0.97}, False)]
)
def test_the_check(agreement: dict[str, float], ok: bool) -> None:
    now = figures({"vectors.bits": "binary of 24", "vectors.codes": "int8 of 24"}, **agreement)
    given = facts(now=now, last=None, alone="nothing is published yet")
    checks = check_run(given, GateConfig(), 0)
    assert [check.name for check in failed(checks)] == ([] if ok else ["columns"])
    (found,) = [check for check in checks if check.name == "columns"]
    assert ("codes 0.9" in found.note, found.allowed) == (True, 0.98)


def test_without_other_columns_there_is_no_such_check() -> None:
    assert "columns" not in {check.name for check in check_run(facts(), GateConfig(), 0)}


def test_the_figures_are_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for made in (figures({}), figures({"vectors.bits": "binary of 24"}, bits=0.5)):
        save_figures(store, made)
        kept = load_figures(store, "run")
        assert kept is not None
        assert (dict(kept.agreement), dict(kept.model)) == (dict(made.agreement), dict(made.model))

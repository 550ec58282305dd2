"""Labelled vectors for tests: a published snapshot, and the same rows in memory, in its order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.evaluate import classify
from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Outcome
from jobs.passes.source import SourceSnapshot
from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors

CLASSES = 7


@dataclass(frozen=True)
class Rows:
    """As the snapshot has them, if it has one shard after another."""

    vectors: np.ndarray
    labels: np.ndarray  # of strings
    texts: list[str]


def drawn(rows: int, dim: int = 16, seed: int = 0, noise: float = 1.0) -> Rows:
    """Unit vectors around the centre of their class; a few classes hold most of the rows."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((CLASSES, dim))
    codes = np.minimum(draw.geometric(0.35, rows) - 1, CLASSES - 1)
    vectors = centres[codes] + 2 * noise * draw.standard_normal((rows, dim)) * np.linspace(0.2, 1.5, dim)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array([f"class {code}" for code in codes])
    return Rows(vectors.astype(np.float32), labels, [f"text {seed} {row}" for row in range(rows)])


def publish(output: Path, rows: Rows, **settings: Any) -> None:
    keep = settings.pop("keep", {}) | {"lang": pa.array(rows.labels.tolist())}
    publish_vectors(output, rows.vectors, texts=rows.texts, keep=keep, **{"shards": 3, **settings})


def section_of(output: Path, **settings: Any) -> EvaluateSection:
    return EvaluateSection.model_validate({"snapshot": str(output), "label": "lang", "c": [10.0], **settings})


def evaluated(
    section: EvaluateSection,
    *,
    threads: int = 1,
    journal: MemoryJournal | None = None,
    exact: bool = False,
    drawn_report: bool = False,
) -> tuple[Outcome, list[str]]:
    """The outcome, and the names of the passes that were carried out.

    Args:
        exact: as many passes as the product makes; otherwise few, which is enough for what is not about exactness.
        drawn_report: with charts.
    """
    source = SourceSnapshot.open(section.snapshot, {}, "evaluate.snapshot")
    columns = classify.check(source, section)
    with passes_over(section.snapshot, columns, threads=threads, journal=journal) as passes, _shortened(exact, drawn_report):
        outcome = classify.evaluate(passes, section, None)
        return outcome, [name for name, _ in passes.done]


@contextmanager
def _shortened(exact: bool, drawn_report: bool) -> Iterator[None]:
    """matplotlib takes longer than all passes over a small snapshot."""
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            patch.setattr(classify, "FOLD_PASSES", 6)
            patch.setattr(classify, "FINAL_PASSES", 12)
        if not drawn_report:
            patch.setattr(classify, "sections", lambda *_: [])
        yield


def frozen(outcome: Outcome) -> str:
    """Everything that it holds, to the bit."""
    tables: Mapping[str, Any] = {name: table.to_pydict() for name, table in outcome.tables.items()}
    return json.dumps([outcome.facts, tables], sort_keys=True)


def by_id(table: pa.Table) -> dict[str, Mapping[str, Any]]:
    rows: Sequence[Mapping[str, Any]] = table.to_pylist()
    return {row["id"]: row for row in rows}

"""The task `pairs`: do cosines agree with graded pairs? Spearman's and Pearson's correlation.

evaluate.pairs is a file with a column `score` and either `id_1` and `id_2` (rows of the snapshot) or `text_1` and `text_2`
(embedded with its model, as documents are).
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.given.embedding import embedded
from jobs.evaluate.given.known_ids import refuse_unknown, require_ids
from jobs.evaluate.given.tables import column_names, read_table
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.records.documents import text_hash
from workers.table.schema import ID
from workers.table.vectors import Floats, cosines
from workers.vectors.agreement.graded import correlations, most_different
from workers.vectors.retrieval.named import VectorsOfIds, found_ids

METRICS: tuple[str, ...] = ("spearman", "pearson")
LEAST = 3  # pairs
IDS = "ids with pairs"
EXAMPLES = 20


def check(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """Raises: UsageError."""
    source.require_rows_of_text("evaluate.task=pairs")
    if not section.pairs:
        raise UsageError("evaluate.task=pairs needs evaluate.pairs: a file of id_1, id_2 (or text_1, text_2) and score")
    if _by_id(section) and source.schema.chunked:
        raise UsageError(
            "evaluate.pairs: the snapshot has a row for each chunk (model.long_text), so an id names several "
            "vectors; give text_1 and text_2, or embed with long_text: mean_of_chunks"
        )
    first, second, _ = _pairs(section)
    if _by_id(section):
        require_ids(source, [*first, *second], "evaluate.pairs", IDS)
    return (ID,)


def evaluate(passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:  # noqa: ARG001 - as every task
    """The correlations, and a table of all pairs with their cosines."""
    first, second, scores = _pairs(section)
    names = sorted({*first, *second})
    vectors = _of_ids(passes, names) if _by_id(section) else embedded(passes, names, query=False)
    place = {name: at for at, name in enumerate(names)}
    found = cosines(vectors[[place[name] for name in first]], vectors[[place[name] for name in second]])
    if np.ptp(found) == 0:
        raise UsageError("evaluate.pairs: all cosines are equal; a correlation needs pairs that differ")
    facts = {"task": "pairs", "rows": passes.source.rows, "pairs": len(scores), **correlations(found, scores)}
    table = pa.table({"first": first, "second": second, "score": scores, "cosine": found})
    return Outcome(facts=facts, tables={"pairs": table}, report=[_section(first, second, scores, found, facts)])


def text(facts: Mapping[str, Any]) -> list[str]:
    """The correlations on one line."""
    return [f"{facts['pairs']:,} pairs: Spearman {facts['spearman']:.4f}, Pearson {facts['pearson']:.4f}"]


def _by_id(section: EvaluateSection) -> bool:
    return "id_1" in column_names(section, "pairs")


def _pairs(section: EvaluateSection) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """In order of the file, or of hashes where a sample is taken."""
    kind = "id" if _by_id(section) else "text"
    columns = {f"{kind}_1": pa.string(), f"{kind}_2": pa.string(), "score": pa.float64()}
    table = read_table(section, "pairs", columns)
    first, second = table.column(0).to_pylist(), table.column(1).to_pylist()
    scores = table.column(2).to_numpy()
    if not np.isfinite(scores).all():
        raise UsageError(
            f"evaluate.pairs: {int((~np.isfinite(scores)).sum()):,} scores are NaN or infinite; remove these pairs"
        )
    if section.sample and len(scores) > section.sample:
        draws = [text_hash(f"{one}\0{other}") for one, other in zip(first, second, strict=True)]
        rows = sorted(range(len(draws)), key=draws.__getitem__)[: section.sample]
        first, second, scores = [first[row] for row in rows], [second[row] for row in rows], scores[rows]
    if len(scores) < LEAST or np.ptp(scores) == 0:
        raise UsageError(
            f"evaluate.pairs: {len(scores):,} pairs with {len(np.unique(scores)):,} different scores; "
            f"a correlation needs {LEAST} pairs and two scores at least"
        )
    return first, second, scores


def _of_ids(passes: Passes, names: list[str]) -> Floats:
    known = found_ids(np.array(names, dtype=np.str_), VectorsOfIds, passes.run)
    place, row = np.unique(known.get("place", np.zeros(0, np.int64)), return_index=True)
    absent = np.setdiff1d(np.arange(len(names)), place)
    refuse_unknown([names[at] for at in absent], passes.source, "evaluate.pairs", IDS)
    return known["vectors"][row]


def _section(
    first: list[str], second: list[str], scores: NDArray[np.float64], found: NDArray[np.float64], facts: Mapping[str, Any]
) -> tuple[str, str]:
    rows = "".join(
        f"<tr><td>{html.escape(first[at][:200])}</td><td>{html.escape(second[at][:200])}</td>"
        f"<td>{scores[at]:g}</td><td>{found[at]:.3f}</td></tr>"
        for at in most_different(found, scores, EXAMPLES)
    )
    return "Graded pairs", (
        f"<p>{html.escape(text(facts)[0])}. The pairs whose places in the two orders are furthest apart:</p>"
        f"<table><tr><th>first</th><th>second</th><th>score</th><th>cosine</th></tr>{rows}</table>"
    )

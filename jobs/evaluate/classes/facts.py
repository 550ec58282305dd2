"""What task classify has found, as facts for summary.json, tables, and lines for a terminal.

Names of figures are the public contract's: task, rows, accuracy, macro_f1, micro_f1, weighted_f1, knn_macro_f1, macro_auc,
and `classes`: precision, recall, f1, auc, rows by the class's name. A figure that has no value is null. K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.evaluate.config import EvaluateSection, Task
from jobs.passes.source import SourceSnapshot
from workers import __version__
from workers.config import VectorType
from workers.vectors.evaluation.classes.curves import Curves, precision_recall_points, roc_points
from workers.vectors.evaluation.classes.division import MAIN, NAIVE, Division, Subset
from workers.vectors.evaluation.classes.gathered import lowest_rows
from workers.vectors.evaluation.classes.neighbours import voted
from workers.vectors.evaluation.figures import ByClass, calibration_error, interval
from workers.vectors.step import Partial

POINTS = 200  # of each class's curves in the tables
LARGE_GAP = 0.01  # of macro-F1 between the naive division and the one that does not leak: told


@dataclass(frozen=True)
class Evaluation:
    """Everything that the passes have answered."""

    division: Division
    section: EvaluateSection
    source: SourceSnapshot
    several: bool
    counted: Partial  # LabelCounts
    excluded: Mapping[str, int]  # classes that could not be both trained and tested, and their rows
    moments: Partial
    subsets: Sequence[Subset]  # of the final probes: all, naive where there is one, shares
    candidates: Sequence[float]  # macro-F1 of each C on the folds
    c: float
    passes: tuple[int, int]  # of the folds, of the final probes
    loss: float  # of the training rows, penalty included
    scored: Partial  # Scores
    queries: Partial
    nearest: Partial
    predictions: pa.Table
    issues: pa.Table

    @cached_property
    def by_class(self) -> ByClass:
        """[P, K] of the final probes."""
        return ByClass.of(self.scored["hits"], self.scored["predicted"], self.scored["actual"])

    @cached_property
    def curves(self) -> Curves:
        return Curves.of(self.scored["positives"], self.scored["negatives"])

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """Classes that are given or predicted in test rows."""
        return np.flatnonzero(self.scored["actual"][0] + self.scored["predicted"][0] > 0)

    @cached_property
    def f1_intervals(self) -> NDArray[np.float64]:
        """[2, K]"""
        replicates = ByClass.of(*self.scored["bootstrap"])
        return np.percentile(replicates.f1, [2.5, 97.5], axis=0)

    def neighbours(self, split: int) -> tuple[float, float]:
        """Macro-F1 and accuracy of the nearest neighbours, by a division."""
        mine = self.queries["tested"][:, split].astype(bool)
        truth = self.queries["truth"][mine] > 0
        said = voted(self.nearest["truth"][split, mine], self.nearest["similarity"][split, mine], several=self.several)
        figures = ByClass.of((said & truth).sum(axis=0), said.sum(axis=0), truth.sum(axis=0))
        return float(figures.macro_f1), float((said == truth).all(axis=1).mean()) if len(said) else 0.0


def facts_of(found: Evaluation) -> dict[str, Any]:
    """JSON values."""
    scored, figures, curves = found.scored, found.by_class, found.curves
    rows = int(scored["rows"][0])
    replicates = ByClass.of(*scored["bootstrap"])
    knn_f1, knn_accuracy = found.neighbours(MAIN)
    facts: dict[str, Any] = {
        "task": Task.CLASSIFY.value,
        "label": found.division.label,
        "rows": rows,
        "training_rows": int(found.moments["rows"][0]),
        "accuracy": float(scored["correct"][0] / max(rows, 1)),
        "macro_f1": float(figures.macro_f1[0]),
        "micro_f1": float(figures.micro_f1[0]),
        "weighted_f1": float(figures.weighted_f1[0]),
        "knn_macro_f1": knn_f1,
        "knn_accuracy": knn_accuracy,
        "knn_rows": int(found.queries["tested"][:, MAIN].sum()),
        "macro_auc": _mean(curves.auc),
        "macro_auc_bound": _mean(curves.auc_bound),
        "macro_average_precision": _mean(curves.average_precision),
        "calibration_error": calibration_error(scored["reliability"]),
        "log_loss": float(scored["loss"] / max(rows, 1)),
        "intervals": {
            "accuracy": list(interval(scored["bootstrap_correct"][0] / np.maximum(scored["bootstrap_correct"][1], 1))),
            "macro_f1": list(interval(replicates.macro_f1)),
            "micro_f1": list(interval(replicates.micro_f1)),
            "weighted_f1": list(interval(replicates.weighted_f1)),
        },
        "classes": _classes(found),
        "excluded_classes": dict(found.excluded),
        "unlabelled_rows": int(found.counted["unlabelled"].sum()),
        "several_labels": found.several,
        "split": _split(found),
        "learning_curve": _learning_curve(found),
        "probe": {
            "c": found.c,
            "candidates": dict(zip(map(str, found.section.c), found.candidates, strict=True)),
            "fold_passes": found.passes[0],
            "final_passes": found.passes[1],
            "loss": found.loss,
        },
    }
    facts["notes"] = _notes(found, facts)
    facts["mteb"] = _mteb(found, facts)
    return facts


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _classes(found: Evaluation) -> dict[str, dict[str, Any]]:
    figures, curves, intervals = found.by_class, found.curves, found.f1_intervals
    return {
        found.division.classes[at]: {
            "precision": float(figures.precision[0, at]),
            "recall": float(figures.recall[0, at]),
            "f1": float(figures.f1[0, at]),
            "f1_interval": [float(intervals[0, at]), float(intervals[1, at])],
            "auc": _number(curves.auc[at]),
            "auc_bound": _number(curves.auc_bound[at]),
            "average_precision": _number(curves.average_precision[at]),
            "average_precision_bound": _number(curves.average_precision_bound[at]),
            "rows": int(found.scored["actual"][0, at]),
        }
        for at in found.shown
    }


def _split(found: Evaluation) -> dict[str, Any]:
    """How rows were divided, and what the division that leaks would have said."""
    split = found.section.split
    facts: dict[str, Any] = {"by": "column" if split.column else split.by.value, "test": split.test, "folds": split.folds}
    naive = [at for at, subset in enumerate(found.subsets) if subset.split == NAIVE]
    if naive:
        at = naive[0]
        facts["random"] = {
            "rows": int(found.scored["rows"][at]),
            "accuracy": float(found.scored["correct"][at] / max(int(found.scored["rows"][at]), 1)),
            "macro_f1": float(found.by_class.macro_f1[at]),
            "knn_macro_f1": found.neighbours(NAIVE)[0],
        }
    return facts


def _learning_curve(found: Evaluation) -> list[dict[str, Any]]:
    """Macro-F1 by training rows, ascending: whether more labels are worth it."""
    mine = [at for at, subset in enumerate(found.subsets) if subset.split == MAIN]
    order = sorted(mine, key=lambda at: found.subsets[at].share)
    rows = int(found.moments["rows"][0])
    return [
        {
            "training_rows": int(found.moments["rows"][at]),
            "share": found.subsets[at].share if rows else 0.0,
            "macro_f1": float(found.by_class.macro_f1[at]),
            "accuracy": float(found.scored["correct"][at] / max(int(found.scored["rows"][at]), 1)),
        }
        for at in order
    ]


def _notes(found: Evaluation, facts: Mapping[str, Any]) -> list[str]:
    """What a reader must know before comparing these figures with others."""
    notes = []
    if found.source.schema.vector_format.vector is VectorType.BINARY:
        notes.append("the snapshot holds binary vectors: each component is -1 or 1")
    if found.excluded:
        named = ", ".join(list(found.excluded)[:5]) + (", …" if len(found.excluded) > 5 else "")
        notes.append(f"{len(found.excluded)} classes with too few rows to be trained and tested are left out: {named}")
    if facts["unlabelled_rows"]:
        notes.append(f"{facts['unlabelled_rows']:,} rows have no label and are left out")
    leak = facts["split"].get("random")
    if leak is not None:
        gap = max(leak["macro_f1"] - facts["macro_f1"], leak["knn_macro_f1"] - facts["knn_macro_f1"])
        if gap > LARGE_GAP:
            notes.append(f"a random split leaks (copies of test rows are training rows): it would have said {gap:+.3f}")
    if found.section.split.column is None and found.section.split.by.value == "text":
        notes.append("near-duplicates may stand on both sides: `reembed dedup` and evaluate.split.by=near keep them apart")
    return notes


def _mteb(found: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a results file as MTEB writes it. `mteb_version` says who wrote it: it is not MTEB."""
    scores = {
        "accuracy": facts["accuracy"],
        "f1": facts["macro_f1"],
        "f1_weighted": facts["weighted_f1"],
        "main_score": facts["macro_f1"],
        "hf_subset": "default",
        "languages": [],
    }
    return {
        "dataset_revision": found.source.run_id,
        "task_name": f"reembed.{found.division.label}",
        "mteb_version": f"reembed {__version__}",
        "scores": {"test": [scores]},
        "evaluation_time": None,
        "kg_co2_emissions": None,
    }


def tables_of(found: Evaluation, facts: Mapping[str, Any]) -> dict[str, pa.Table]:
    """scores, roc, precision_recall; with one label a row also confusion, predictions and label_issues."""
    names = [found.division.classes[at] for at in found.shown]
    rows = [{"class": name, **facts["classes"][name]} for name in names]
    for row in rows:
        row["f1_low"], row["f1_high"] = row.pop("f1_interval")
    tables = {"scores": pa.Table.from_pylist(rows)}
    drawn = [at for at in found.shown if np.isfinite(found.curves.auc[at])]
    positives, negatives = found.scored["positives"], found.scored["negatives"]
    roc = {found.division.classes[at]: roc_points(positives[at], negatives[at], POINTS) for at in drawn}
    recall = {found.division.classes[at]: precision_recall_points(positives[at], negatives[at], POINTS) for at in drawn}
    tables["roc"] = _curve_table(roc, "false_positive_rate", "true_positive_rate")
    tables["precision_recall"] = _curve_table(recall, "recall", "precision")
    if found.several:
        return tables
    given, predicted = np.nonzero(found.scored["confusion"])
    known = pa.array(found.division.classes, pa.string())
    counts = pa.array(found.scored["confusion"][given, predicted])
    tables["confusion"] = pa.table(
        {"given": known.take(pa.array(given)), "predicted": known.take(pa.array(predicted)), "rows": counts}
    )
    tables["predictions"] = found.predictions
    tables["label_issues"] = lowest_rows(found.issues, "score", len(found.issues)).drop_columns(["key"])
    return tables


def _curve_table(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], x: str, y: str) -> pa.Table:
    names = [name for name, (first, _) in curves.items() for _ in first]
    xs = np.concatenate([np.zeros(0), *(first for first, _ in curves.values())])
    ys = np.concatenate([np.zeros(0), *(second for _, second in curves.values())])
    return pa.table({"class": pa.array(names, pa.string()), x: xs, y: ys})


def lines(facts: Mapping[str, Any]) -> list[str]:
    """For a terminal."""
    low, high = facts["intervals"]["macro_f1"]
    auc = "-" if facts["macro_auc"] is None else f"{facts['macro_auc']:.4f}"
    told = [
        f"{facts['label']}: {len(facts['classes'])} classes, {facts['training_rows']:,} trained, {facts['rows']:,} test",
        f"macro-F1 {facts['macro_f1']:.4f} (95%: {low:.4f} to {high:.4f}), accuracy {facts['accuracy']:.4f}, AUC {auc}",
        f"nearest neighbours: macro-F1 {facts['knn_macro_f1']:.4f}; calibration error {facts['calibration_error']:.4f}",
    ]
    if "random" in facts["split"]:
        leak = facts["split"]["random"]
        told.append(f"a random split would have said macro-F1 {leak['macro_f1']:.4f}, neighbours {leak['knn_macro_f1']:.4f}")
    if "against" in facts:
        other = facts["against"]
        low, high = other["macro_f1_interval"]
        told.append(
            f"against {other['run_id']}: {other['verdict']}, macro-F1 {other['macro_f1']:.4f} against "
            f"{other['other_macro_f1']:.4f} on {other['rows']:,} rows (95% of the difference: {low:+.4f} to {high:+.4f})"
        )
        told += [f"  {each['class']}: F1 {each['f1']:.3f}, was {each['other_f1']:.3f}" for each in other["lost_classes"]]
    return [*told, *facts["notes"]]

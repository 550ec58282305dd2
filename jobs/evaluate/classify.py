"""Task classify: how well a linear probe and the nearest neighbours tell the classes of a kept column by the vectors.

    1. labels are counted, rows are divided                       1 pass
    2. moments of the training rows                               1
    3. probes of every C without every fold; C is chosen          FOLD_PASSES + 1
    4. probes of the chosen C: of all training rows, of the naive division's, and of shares of them
                                                                  FINAL_PASSES
    5. test rows are scored; nearest neighbours                   4

The program is deterministic: a resumed driver takes what the journal holds and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from jobs.evaluate.classes.facts import Evaluation, facts_of, lines, tables_of
from jobs.evaluate.classes.inputs import columns_of, division_groups, other_predictions
from jobs.evaluate.classes.report import ISSUES, sections
from jobs.evaluate.config import EvaluateSection, SplitBy
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.vectors.evaluation.classes.curves import quantile_edges
from workers.vectors.evaluation.classes.division import MAIN, NAIVE, Division, Subset, stable_shares
from workers.vectors.evaluation.classes.fit import Fitted, Geometry, Problem, fit
from workers.vectors.evaluation.classes.gathered import table_of
from workers.vectors.evaluation.classes.labels import LabelCounts, classes_of, has_several
from workers.vectors.evaluation.classes.neighbours import Nearest, Queries, query_count
from workers.vectors.evaluation.classes.paired import compare
from workers.vectors.evaluation.classes.probe import Moments, Weights
from workers.vectors.evaluation.classes.scoring import FoldCounts, LogOddsSample, Scores
from workers.vectors.evaluation.figures import ByClass
from workers.vectors.step import Partial

METRICS: tuple[str, ...] = (
    "macro_f1",
    "accuracy",
    "micro_f1",
    "weighted_f1",
    "knn_macro_f1",
    "macro_auc",
    "macro_average_precision",
)
FOLD_PASSES, FINAL_PASSES = 20, 52  # at most: 79 passes in all
TOLERANCE = 1e-6  # of the scaled gradient, as a share of the rows
CURVE = (0.1, 0.25, 0.5)  # shares of the training rows, for the learning curve
LEAST = 50  # rows of a class that sampling leaves
MOST_UNLABELLED = 0.5
SAMPLED_CELLS = 4_000_000  # log-odds of the sample that the histograms' edges come from: 16 MB
PREDICTIONS = 200_000  # rows of the table


@dataclass(frozen=True, slots=True)
class _Task:
    passes: Passes
    section: EvaluateSection
    label: str
    columns: tuple[str, ...]
    kind: pa.DataType  # of the label's column

    @property
    def several(self) -> bool:
        return has_several(self.kind)


def check(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """As JobKind.check()."""
    return columns_of(source, section)


def evaluate(passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:  # noqa: ARG001 - of no use here
    """As JobKind.program()."""
    label = passes.source.schema.rows.field(str(section.label))
    found, _ = measured(passes, section, columns_of(passes.source, section), label.type)
    return outcome_of(found)


def text(facts: Mapping[str, Any]) -> list[str]:
    """As JobKind.text()."""
    return lines(facts)


def measured(
    passes: Passes, section: EvaluateSection, columns: tuple[str, ...], kind: pa.DataType
) -> tuple[Evaluation, Weights]:
    """What the passes have answered, and the probe of all training rows.

    Args:
        columns: that the steps read.
        kind: of the label's column, as the steps see it.
    """
    with threadpool_limits(limits=1):  # of the driver's own sums: their bits must not depend on its processors
        return _measured(_Task(passes, section, str(section.label), columns, kind))


def _measured(task: _Task) -> tuple[Evaluation, Weights]:
    passes, section, label = task.passes, task.section, task.label
    counted = passes.run(LabelCounts(label, task.columns))
    division, excluded = _divided(counted, task)
    several = task.several

    subsets = _subsets(section)
    moments = passes.run(Moments(division, subsets, task.columns))
    known = _known(moments, division, excluded, task)
    geometry = _geometry(passes, moments)
    chosen, folds, out_of_fold = _choose(task, division, subsets, moments, geometry)

    final = [at for at, subset in enumerate(subsets) if subset.without < 0]
    problems = [_problem(subsets, moments, at, section.c[chosen]) for at in final]
    middle = (folds.slopes.mean(axis=0), _mean_intercepts(folds.intercepts))
    fitted = fit(
        problems, geometry, division, task.columns, passes.run, several=several,
        evaluations=FINAL_PASSES, tolerance=TOLERANCE, starts=dict.fromkeys(range(len(problems)), middle),
    )  # fmt: skip
    weights = fitted.weights(several=several)

    tested = moments["tested"][MAIN]
    per_class = SAMPLED_CELLS // len(division.classes)
    shares = stable_shares(tested, per_class, min(LEAST * 20, per_class))
    sample = passes.run(LogOddsSample(division, weights.one(0), shares, task.columns))
    edges = quantile_edges(sample["odds"], sample["truth"])
    shown = min(1.0, PREDICTIONS / max(1, int(moments["tested_rows"][MAIN])))
    scored = passes.run(
        Scores(
            division, tuple(subsets[at] for at in final), weights, edges, folds.weights(several=several), known, shown,
            task.columns,
        )
    )  # fmt: skip
    most = min(query_count(int(moments["rows"][0]), passes.source.dim), SAMPLED_CELLS // len(division.classes))
    share = min(1.0, most / max(1, int(moments["tested_rows"][MAIN])))
    queries = passes.run(Queries(division, known, share, task.columns))
    nearest = passes.run(Nearest(division, queries["vectors"], task.columns))
    found = Evaluation(
        division=division,
        section=section,
        source=passes.source,
        several=several,
        counted=counted,
        excluded=excluded,
        moments=moments,
        subsets=tuple(subsets[at] for at in final),
        candidates=out_of_fold,
        c=section.c[chosen],
        passes=(folds.passes, fitted.passes),
        loss=float(fitted.losses[0]),
        scored=scored,
        queries=queries,
        nearest=nearest,
        predictions=table_of(scored, "predictions"),
        issues=table_of(scored, "issues"),
    )
    return found, weights.one(0)


def outcome_of(found: Evaluation) -> Outcome:
    """Facts, tables and the report's sections."""
    section, facts = found.section, facts_of(found)
    if section.against is not None:
        facts["against"] = _against(found.predictions, section)
    tables = tables_of(found, facts)
    issues = tables["label_issues"].slice(0, ISSUES).to_pylist() if "label_issues" in tables else []
    return Outcome(facts=facts, tables=tables, report=sections(found, facts, issues))


def _divided(counted: Partial, task: _Task) -> tuple[Division, dict[str, int]]:
    """The division, and classes of one row, which can be either trained or tested: they are left out."""
    section, label = task.section, task.label
    value = task.kind.value_type if task.several else task.kind
    classes, counts = classes_of(counted, label, numbers=pa.types.is_integer(value))
    rows, unlabelled = int(counted["rows"].sum()), int(counted["unlabelled"].sum())
    if unlabelled > MOST_UNLABELLED * rows:
        raise UsageError(
            f"evaluate.label: {label} is null in {unlabelled:,} of {rows:,} rows; label more of them, or embed the labelled "
            "ones alone"
        )
    if len(classes) < (1 if task.several else 2):
        only = f"has one value, {classes[0]}" if classes else "has no value"
        raise UsageError(f"evaluate.label: {label} {only}: two classes are needed; choose another column")
    single = counts < 2
    shares = stable_shares(np.where(single, 0, counts), section.sample, LEAST)
    split = section.split
    division = Division(
        label,
        classes,
        shares,
        split.test,
        split.folds,
        split.by is not SplitBy.RANDOM,
        split.column,
        division_groups(task.passes.source, section),
    )
    return division, {name: int(count) for name, count in zip(classes, counts, strict=True) if count < 2}


def _subsets(section: EvaluateSection) -> tuple[Subset, ...]:
    """All training rows; the naive division's; shares of them; all without each fold."""
    naive = section.split.column is None and section.split.by is not SplitBy.RANDOM
    whole = [Subset(MAIN), *([Subset(NAIVE)] if naive else [])]
    parts = [Subset(MAIN, share=share) for share in CURVE]
    return (*whole, *parts, *(Subset(MAIN, without=fold) for fold in range(section.split.folds)))


def _known(moments: Partial, division: Division, excluded: dict[str, int], task: _Task) -> NDArray[np.bool_]:
    """[K] classes with training rows; the others are added to `excluded`. Raises: UsageError: nothing to learn or test."""
    trained, tested = moments["counts"][0] > 0, moments["tested"][MAIN]
    for name, here, rows in zip(division.classes, trained, tested, strict=True):
        if not here and rows:
            excluded[name] = int(rows)
    if trained.sum() < (1 if task.several else 2):
        raise UsageError(f"evaluate.label: {task.label} has fewer than two classes to learn; lower evaluate.split.test")
    if not (tested * trained).sum():
        raise UsageError("evaluate.split.test: no test row has a class of the training rows; raise it, or label more rows")
    return np.asarray(trained)


def _geometry(passes: Passes, moments: Partial) -> Geometry:
    def make() -> Partial:
        made = Geometry.of(moments)
        return {"mean": made.mean, "axes": made.axes, "variances": made.variances, "length2": np.array(made.length2)}

    kept = passes.once("geometry", make)
    return Geometry(kept["mean"], kept["axes"], kept["variances"], float(kept["length2"]))


def _problem(subsets: Sequence[Subset], moments: Partial, at: int, c: float) -> Problem:
    return Problem(subsets[at], c, moments["counts"][at], int(moments["rows"][at]))


def _choose(
    task: _Task, division: Division, subsets: Sequence[Subset], moments: Partial, geometry: Geometry
) -> tuple[int, Fitted, list[float]]:
    """The place of the best C, its probes by fold, and the macro-F1 of each C on the folds left out."""
    several, candidates = task.several, task.section.c
    folds = [at for at, subset in enumerate(subsets) if subset.without >= 0]
    problems = [_problem(subsets, moments, at, c) for c in candidates for at in folds]
    fitted = fit(
        problems, geometry, division, task.columns, task.passes.run, several=several,
        evaluations=FOLD_PASSES, tolerance=TOLERANCE,
    )  # fmt: skip
    counts = task.passes.run(FoldCounts(division, fitted.weights(several=several), task.columns))
    scores = ByClass.of(counts["hits"], counts["predicted"], counts["actual"]).macro_f1
    best = int(np.flatnonzero(scores >= scores.max())[0])
    mine = slice(best * len(folds), (best + 1) * len(folds))
    chosen = Fitted(fitted.slopes[mine], fitted.intercepts[mine], fitted.losses[mine], fitted.passes)
    return best, chosen, [float(score) for score in scores]


def _mean_intercepts(intercepts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] over the folds that know the class; -inf where none does."""
    known = np.isfinite(intercepts)
    total = np.where(known, intercepts, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), -np.inf)


def _against(predictions: pa.Table, section: EvaluateSection) -> dict[str, Any]:
    run_id, other = other_predictions(section)
    found = compare(predictions, other)
    if found is None:
        raise UsageError(
            f"evaluate.against={section.against}: its test rows are none of this evaluation's; evaluate both snapshots with "
            "the same label and split"
        )
    return {
        "run_id": run_id,
        "rows": found.rows,
        "macro_f1": found.macro_f1,
        "other_macro_f1": found.other_macro_f1,
        "macro_f1_interval": list(found.macro_f1_interval),
        "accuracy": found.accuracy,
        "other_accuracy": found.other_accuracy,
        "accuracy_interval": list(found.accuracy_interval),
        "verdict": found.verdict,
        "lost_classes": [{"class": name, "f1": here, "other_f1": there} for name, here, there in found.lost],
        "lost_rows": [{"id": name, "given": given, "predicted": said} for name, given, said in found.examples],
    }

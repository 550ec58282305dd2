"""The task `cluster`: do the vectors of a class lie together? V-measure of a spherical k-means against a label.

All labelled rows take part. The clustering is made for this figure alone; `reembed cluster` is the job that writes one.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.table.schema import TEXT_HASH
from workers.vectors.agreement.spherical import Contingency, LabelCounts, LloydPass, StartSample, moved, start, unit_sample
from workers.vectors.agreement.v_measure import v_measure
from workers.vectors.evaluation.classes.strings import is_text

METRICS: tuple[str, ...] = ("v_measure", "homogeneity", "completeness")
SAMPLE = 256  # texts a cluster, on which the start is found
PASSES = 10  # of Lloyd's algorithm over everything, at most
TOLERANCE = 1e-4  # relative: the passes end when the sum of distances falls by less
MOST_UNLABELLED = 0.5
MOST_CLASSES = 4096
SHOWN = 30  # classes in the report


def check(source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
    """Raises: UsageError."""
    source.require_rows_of_text("evaluate.task=cluster")
    if not section.label:
        raise UsageError("evaluate.task=cluster needs evaluate.label: a kept column that holds the classes")
    source.require_columns([section.label], "evaluate.label")
    kind = source.column_type(section.label)
    if not (is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        mend = "cut it into classes when you embed" if pa.types.is_floating(kind) else "name a column of one class a row"
        raise UsageError(f"evaluate.label: {section.label} is {kind}, and task=cluster compares one class a row; {mend}")
    return (TEXT_HASH, section.label)


def evaluate(passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:  # noqa: ARG001 - as every task
    """V-measure and its two halves, and the contingency table."""
    label = str(section.label)
    counts = passes.run(LabelCounts(label))
    labels, labelled, unlabelled = counts["label"], int(counts["rows"].sum()), int(counts["unlabelled"])
    if unlabelled > MOST_UNLABELLED * (labelled + unlabelled):
        raise UsageError(
            f"evaluate.label: {label} is null in {unlabelled:,} of {labelled + unlabelled:,} rows; name another column"
        )
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise UsageError(
            f"evaluate.label: {label} has {len(labels):,} classes; task=cluster takes 2 to {MOST_CLASSES:,}: "
            "name another column"
        )
    clusters = section.clusters or len(labels)
    sample = unit_sample(passes.run(StartSample(label, clusters * SAMPLE)))
    if len(sample) < clusters:
        raise UsageError(f"evaluate.clusters: {clusters:,} clusters of {len(sample):,} distinct texts; ask for fewer")
    centroids = passes.once(f"start {clusters}", lambda: {"centroids": start(sample, clusters)})["centroids"]
    before = np.inf
    for _ in range(PASSES):
        total = passes.run(LloydPass(label, centroids))
        centroids = moved(centroids, total["sums"], total["counts"])
        distance = float(total["distance"])
        if before - distance <= TOLERANCE * distance:
            break
        before = distance
    table = passes.run(Contingency(label, labels, centroids))["rows"]
    facts = {
        "task": "cluster",
        "rows": passes.source.rows,
        "labelled": labelled,
        "classes": len(labels),
        "clusters": clusters,
        **v_measure(table),
    }
    return Outcome(facts=facts, tables={"contingency": _table(labels, table)}, report=[_section(labels, table, facts)])


def text(facts: Mapping[str, Any]) -> list[str]:
    """The figures on one line."""
    return [
        f"{facts['labelled']:,} labelled rows of {facts['classes']:,} classes in {facts['clusters']:,} clusters: V-measure "
        f"{facts['v_measure']:.4f} (homogeneity {facts['homogeneity']:.4f}, completeness {facts['completeness']:.4f})"
    ]


def _table(labels: NDArray[np.str_], rows: NDArray[np.int64]) -> pa.Table:
    """One row for each class and cluster that have rows in common."""
    label, cluster = np.nonzero(rows)
    return pa.table(
        {
            "label": pa.array(labels[label].tolist(), pa.string()),
            "cluster": pa.array(cluster, pa.int32()),
            "rows": pa.array(rows[label, cluster], pa.int64()),
        }
    )


def _section(labels: NDArray[np.str_], rows: NDArray[np.int64], facts: Mapping[str, Any]) -> tuple[str, str]:
    """Of the largest classes: the largest share that lies in one cluster."""
    largest = np.argsort(-rows.sum(axis=1), kind="stable")[:SHOWN]
    lines = "".join(
        f"<tr><td>{html.escape(str(labels[at]))}</td><td>{int(rows[at].sum()):,}</td>"
        f"<td>{rows[at].max() / max(int(rows[at].sum()), 1):.0%}</td></tr>"
        for at in largest
    )
    return "Classes as clusters", (
        f"<p>{html.escape(text(facts)[0])}.</p>"
        f"<table><tr><th>class</th><th>rows</th><th>in its largest cluster</th></tr>{lines}</table>"
    )

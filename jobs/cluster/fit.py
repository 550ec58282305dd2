"""Centroids of a snapshot: a sample, faiss on it, then exact passes over all rows until they change little.

    fit(passes, section, clusters) -> Fit

A pass lowers the inertia, the sum of squared distances of all rows to their centroids, or ends the fit. After each but the
last the centroids go beyond the means of their rows (over-relaxation), which takes fewer passes: each reads every vector.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.cluster.config import ClusterSection
from jobs.passes.passes import Passes
from workers.errors import UsageError
from workers.vectors.clustering.centroids import COSINE, Centroids
from workers.vectors.clustering.fit import OVER_RELAXED, after_pass, distinct_rows, start
from workers.vectors.clustering.row_keys import key_columns
from workers.vectors.clustering.steps import Lloyd, SampleRows, in_order_of_keys
from workers.vectors.step import Partial

log = logging.getLogger("reembed")
_LARGER = 8  # times, when a sample has too few distinct rows


@dataclass(frozen=True, slots=True)
class Fit:
    """`passes`: exact passes made. `sampled`: rows of the sample. `inertia`: of each pass, before its update."""

    centroids: Centroids
    passes: int
    sampled: int
    inertia: tuple[float, ...]


def fit(passes: Passes, section: ClusterSection, clusters: int) -> Fit:
    """Raises: UsageError: fewer distinct vectors than clusters. As Passes.run()."""
    sample = _sample(passes, section, clusters)
    name = f"start {clusters} {section.metric} {len(sample)}"  # the sample's step decides its rows
    state = passes.once(name, lambda: start(sample, clusters, section.metric).to_state())
    centroids = Centroids.from_state(section.metric, state)
    inertias: list[float] = []
    while True:
        totals = passes.run(Lloyd(centroids, key_columns(passes.source.schema)))
        inertias.append(float(totals["inertia"]))
        last = len(inertias) == section.passes or _settled(inertias, totals, section.tolerance)
        centroids, empty = after_pass(centroids, totals, 1.0 if last else OVER_RELAXED)
        log.info("pass %d: inertia %.6g, %d empty clusters", len(inertias), inertias[-1], empty)
        if last:
            break
    return Fit(centroids, len(inertias), len(sample), tuple(inertias))


def _settled(inertias: list[float], totals: Partial, tolerance: float) -> bool:
    """Whether the last pass lowered the inertia by no more than this share, and no cluster was empty in it."""
    if len(inertias) < 2 or not totals["counts"].all():
        return False
    return inertias[-2] - inertias[-1] <= tolerance * inertias[-2]


def _sample(passes: Passes, section: ClusterSection, clusters: int) -> NDArray[np.float32]:
    """[n, D] in order of row keys, with at least `clusters` distinct rows."""
    source = passes.source
    vectors = max(1, source.vectors_in(source.shards))
    most = min(1.0, section.sample_bytes / (4 * source.dim) / vectors)
    share = min(most, clusters * section.sample / vectors)
    while True:
        step = SampleRows(share, section.metric == COSINE, key_columns(source.schema))
        _, sample = in_order_of_keys(passes.run(step))
        distinct = distinct_rows(sample, clusters)
        if distinct >= clusters:
            return sample
        if share >= most:
            break
        share = min(most, share * _LARGER)
    if share >= 1:
        raise UsageError(
            f"cluster.clusters={clusters}: the snapshot has {distinct:,} distinct vectors; give at most {distinct}"
        )
    raise UsageError(
        f"cluster.clusters={clusters}: the sample of {len(sample):,} rows has {distinct:,} distinct vectors; give fewer "
        "clusters, or raise cluster.sample_bytes"
    )

"""`reembed cluster`: k-means over a snapshot; every row's cluster, its distance and its second nearest cluster.

1. check       what can be refused at once: more clusters than rows, centroids too large to send
2. last night  with kept centroids only new shards are described; if they drift, the centroids are computed anew
3. fit         a sample, then exact passes                                           (fit.py)
4. describe    rows, inertia, nearest rows and samples of each cluster, in one pass   (workers/vectors/clustering)
5. words       from the texts of the corpus, by text hash                            (topics.py)
6. outcome     the pass that writes, the table of clusters, the report                (report.py)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.cluster.config import ClusterJobConfig, ClusterSection
from jobs.cluster.fit import fit
from jobs.cluster.last_night import Drift, LastNight, kept_state
from jobs.cluster.report import Clusters, cluster_table, sections
from jobs.cluster.topics import read_topics, text_shards
from jobs.config import ClusterConfig
from jobs.passes.kind import Check, JobKind, Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.table.schema import CHUNK_END, CHUNK_START, OutputSchema
from workers.vectors.clustering.centroids import Centroids
from workers.vectors.clustering.description import MAP, Describe, Described, Wanted
from workers.vectors.clustering.fit import as_before, largest_first
from workers.vectors.clustering.picture import on_plane, plane_of
from workers.vectors.clustering.row_keys import key_columns
from workers.vectors.clustering.steps import Assign
from workers.vectors.kmeans import require_faiss
from workers.vectors.step import Partial

log = logging.getLogger("reembed")

SHOWN_CLUSTERS, SHOWN_WORDS = 8, 6  # in the summary

MOST_STATE_BYTES = 256 << 20  # of the centroids, which every actor is sent once a pass
WORD_ROWS, WORD_ROWS_EACH = 200_000, 1000  # rows sampled for words: in all, and of one cluster


class ClusterJob(JobKind):
    """The job `cluster`."""

    name = "cluster"

    def __init__(self, config: ClusterJobConfig) -> None:
        super().__init__(config)
        self._section = config.cluster

    @property
    def section(self) -> ClusterSection:
        return self._section

    def settings(self) -> dict[str, Any]:
        others = {*ClusterConfig.model_fields, "corpus_options"}
        return {name: value for name, value in super().settings().items() if name not in others}

    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        require_faiss(self.name)
        rows, clusters = source.vectors_in(source.shards), self._clusters(source)
        if rows < 2:
            raise UsageError(f"cluster.snapshot={source.uri}: has {rows} rows; clusters need at least 2")
        if not source.schema.lists and clusters > rows:
            raise UsageError(f"cluster.clusters={clusters}: the snapshot has {rows:,} rows; give at most {rows}")
        most = MOST_STATE_BYTES // (source.dim * 4)
        if clusters > most:
            raise UsageError(
                f"cluster.clusters={clusters}: their centroids of {source.dim} components take more than "
                f"{MOST_STATE_BYTES >> 20} MiB; give at most {most}"
            )
        return _columns(source.schema)

    def program(self, passes: Passes, kept: Kept | None) -> Outcome:
        section, source = self._section, passes.source
        if source.schema.lists:
            log.info("the snapshot holds a vector for each token: rows are tokens, and there are no words")
        before = LastNight.of(kept, source, section)
        drift = Drift(None, exceeded=False)
        if before is not None and section.keep_state:
            new, described = self._describe_after(passes, before)
            drift = before.drift(new, section.max_drift)
            if not drift.exceeded or section.on_drift == "refuse":
                return self._carried(passes, before, new, described, drift)
            log.info("%s: the centroids are computed anew", drift.reason)
        fitted = fit(passes, section, self._clusters(source))
        described = passes.run(self._step(fitted.centroids, source))
        rows = described["rows"]
        numbers = largest_first(rows) if before is None else as_before(fitted.centroids, before.centroids, rows)
        centroids = replace(fitted.centroids, numbers=numbers)
        plane = passes.once(f"plane {centroids.digest[:16]}", lambda: plane_of(described[MAP + "vectors"]))
        picture = {"points": on_plane(plane, described[MAP + "vectors"]), "places": described[MAP + "place"], **plane}
        state = kept_state(centroids, _mean_distance(described), picture)
        facts = {"passes": fitted.passes, "sampled": fitted.sampled, "fitted": True, "drift": drift.value}
        return self._outcome(passes, Clusters(centroids, described, picture), state, facts)

    def text(self, summary: Mapping[str, Any]) -> list[str]:
        drift = "" if summary.get("drift") is None else f", drift {summary['drift']:+.1%}"
        how = f"{summary['passes']} passes" if summary["fitted"] else "centroids of the last run"
        return [
            f"clusters    {summary['clusters']:,} ({summary['metric']}; {how}), {summary['empty']} empty",
            f"inertia     {summary['inertia']:,.6g} of {summary['rows']:,} rows, mean distance "
            f"{summary['mean_distance']:.4f}{drift}",
            *(f"{item['cluster']:>6}  {item['rows']:>9,} rows  {', '.join(item['words'])}" for item in summary["largest"]),
        ]

    def _clusters(self, source: SourceSnapshot) -> int:
        if self._section.clusters == "auto":
            return max(2, math.isqrt(source.vectors_in(source.shards)))
        return int(self._section.clusters)

    def _describe_after(self, passes: Passes, before: LastNight) -> tuple[Partial, Partial]:
        """What is said of the new rows, and of all."""
        source = passes.source
        step, shards = self._step(before.centroids, source), before.new_shards(source)
        new = passes.run(step, shards) if shards else {}
        carried = before.carried(source, step.wanted)
        old = passes.units(carried, len(carried.shards)) if carried.shards else {}
        both = Described(step.wanted)
        for partial in filter(None, (new, old)):
            both.add(partial)
        return new, both.result()

    def _carried(self, passes: Passes, before: LastNight, new: Partial, described: Partial, drift: Drift) -> Outcome:
        section, picture = self._section, {name: before.kept.state[name] for name in ("origin", "axes", "share")}
        points, places = before.kept.state["points"], before.kept.state["places"]
        if new:
            points = np.concatenate([points, on_plane(picture, new[MAP + "vectors"])])
            places = np.concatenate([places, new[MAP + "place"]])
        check = Check("drift", not drift.exceeded, drift.reason, drift.value, section.max_drift)
        if drift.exceeded:
            mend = "raise it, or set cluster.on_drift=refit"
            check = replace(check, reason=f"{drift.reason}; {mend}")
        facts = {"passes": 0, "sampled": 0, "fitted": False, "drift": drift.value}
        clusters = Clusters(before.centroids, described, {"points": points, "places": places, **picture})
        outcome = self._outcome(passes, clusters, dict(before.kept.state), facts)
        return replace(outcome, carry=True, checks=(check,))

    def _outcome(self, passes: Passes, clusters: Clusters, state: Partial, facts: dict[str, Any]) -> Outcome:
        described, centroids = clusters.described, clusters.centroids
        topics = read_topics(passes, described, len(centroids), self._section)
        if topics.trouble:
            log.warning("words and texts of clusters are missing, or fewer: %s", topics.trouble)
        table = cluster_table(clusters, topics)
        return Outcome(
            step=Assign(centroids),
            facts={
                "clusters": len(centroids),
                "rows": int(described["rows"].sum()),
                "inertia": float(described["inertia"]),
                "mean_distance": _mean_distance(described),
                "empty": int((described["rows"] == 0).sum()),
                "metric": centroids.metric,
                "largest": _largest(table),
                "cells": len(centroids.coarse),
                **facts,
            },
            state=state,
            tables={"clusters": table},
            report=sections(clusters, topics, table),
        )

    def _step(self, centroids: Centroids, source: SourceSnapshot) -> Describe:
        section = self._section
        reads = section.words > 0 and not source.schema.lists
        wanted = Wanted(
            clusters=len(centroids),
            metric=section.metric,
            examples=section.examples,
            words=min(WORD_ROWS_EACH, max(20, WORD_ROWS // len(centroids))) if reads else 0,
            text_shards=text_shards(source, section.text_bytes) if reads else np.empty(0, np.int64),
        )
        return Describe(centroids, wanted, section.map / max(1, source.vectors_in(source.shards)), _columns(source.schema))


def _columns(schema: OutputSchema) -> tuple[str, ...]:
    """Columns of the snapshot that steps read."""
    return (*key_columns(schema), *((CHUNK_START, CHUNK_END) if schema.chunked else ()))


def _mean_distance(described: Mapping[str, NDArray[Any]]) -> float:
    return float(described["distance"].sum()) / max(1, int(described["rows"].sum()))


def _largest(table: pa.Table) -> list[dict[str, Any]]:
    """The clusters with most rows, each with its first words."""
    rows = table.select(["cluster", "rows", "words"]).sort_by([("rows", "descending"), ("cluster", "ascending")])
    return [row | {"words": (row["words"] or [])[:SHOWN_WORDS]} for row in rows.slice(0, SHOWN_CLUSTERS).to_pylist()]

"""DedupJob: groups of near-duplicate rows, which row of each to keep, and outliers.

    1  SendHashes, FindCopies       rows of equal text; the first stands for all
    2  SampleTexts, find_cells      k-means centroids of a sample, in the driver
    3  Route                        every text to its `probe` nearest cells, in scratch files
    4  FindPairs                    cell by cell: pairs at or above the threshold, each row's nearest
    5  JoinPairs                    pairs -> groups
    6  SendMembers, ChooseKept      group by group: which row is kept, and the cosine to it
    7  MergeNearest, SendIds        every row's neighbour and its id
    8  DuplicateColumns             one part for each of the snapshot's

Rows travel between steps in scratch files (shuffle.py), of which merging.py makes fewer, so the driver holds figures and
centroids alone. Nothing is kept for the next night: a new row may join any group, so everything is compared again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.dedup.config import DedupConfig, DedupSection
from jobs.dedup.layout import Layout
from jobs.dedup.merging import merged, merged_pieces
from jobs.passes.kind import JobKind, Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.config import VectorType
from workers.errors import UsageError
from workers.vectors.duplicates.cells import SampleTexts, cells_for, find_cells, sample_share
from workers.vectors.duplicates.columns import ADDED, DuplicateColumns
from workers.vectors.duplicates.exact import FindCopies, SendHashes
from workers.vectors.duplicates.find_pairs import EDGE, NEAR, FindPairs
from workers.vectors.duplicates.groups import (
    CHOSEN,
    MEMBER,
    READINGS,
    SIZES,
    ChooseKept,
    JoinPairs,
    SendMembers,
    grouped_row,
)
from workers.vectors.duplicates.groups import PARTITION_ROWS as MEMBERS
from workers.vectors.duplicates.neighbours import MergeNearest, SendIds, outlier_limit
from workers.vectors.duplicates.route import UNIT_BYTES, Route, plan_units
from workers.vectors.duplicates.shuffle import Sent, Shuffle
from workers.vectors.kmeans import require_faiss
from workers.vectors.step import Partial


class DedupJob(JobKind):
    """`reembed dedup`."""

    name = "dedup"
    config: DedupConfig

    @property
    def section(self) -> DedupSection:
        return self.config.dedup

    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        require_faiss(self.name)
        source.require_rows_of_text("dedup")
        wanted, names = self.section, source.schema.rows.names
        source.require_columns(self._tokens, "dedup.keep=longest")
        if isinstance(wanted.clusters, int) and wanted.clusters > source.rows:
            raise UsageError(f"dedup.clusters={wanted.clusters}: the snapshot has {source.rows} rows; give fewer, or auto")
        taken = [name for name in ADDED if name in names]
        if taken:
            raise UsageError(
                f"dedup.snapshot={source.uri}: its column {taken[0]} has the name of one that dedup adds; "
                f"embed without corpus.keep={taken[0]}, or under another name"
            )
        return ("id", *Layout.of(source).keys, *self._tokens)

    @property
    def _tokens(self) -> tuple[str, ...]:
        return ("num_tokens",) if self.section.keep == "longest" else ()

    def program(self, passes: Passes, kept: Kept | None) -> Outcome:  # noqa: ARG002 - nothing is kept for the next night
        layout = Layout.of(passes.source)
        passes.run(SendHashes(layout.hashes, layout.keys))
        hashes = merged(passes, layout.hashes.sent_by(layout.places.numbers), layout.partitions)
        same = passes.units(FindCopies(layout.places, hashes, layout.copies), layout.partitions)
        copies = merged(passes, layout.copies.sent_by(range(layout.partitions)), 2 * len(layout.places.numbers))
        pairs, units = self._pairs(passes, layout, copies)
        groups = self._groups(passes, layout, units, copies)
        step, alone = self._last(passes, layout, units, copies, int(groups["partitions"]))
        rows, members, count = layout.places.rows, int(groups["rows"]), int(groups["groups"])
        facts = {
            "rows": rows,
            "groups": count,
            "duplicates": members - count,
            "kept": rows - members + count,
            "pairs": int(pairs["pairs"] + same["pairs"]),
            "copies": int(same["copies"]),
            "largest_group": int(groups["largest"]),
            "below_threshold": int(groups["below"]),
            "alone": alone,
            "cells": int(pairs["cells"]),
            "largest_cell": int(pairs["largest"]),
            "vector": layout.form.vector.value,
        }
        sizes = [[name, f"{number:,}"] for name, number in zip(_classes(), groups["sizes"].tolist(), strict=True) if number]
        return Outcome(step=step, facts=facts, report=[("Groups by number of rows", _table(["rows", "groups"], sizes))])

    def _pairs(self, passes: Passes, layout: Layout, copies: Sent) -> tuple[dict[str, Any], int]:
        """Figures of the cells and pairs, and the number of units that found them."""
        wanted, places = self.section, layout.places
        cells = cells_for(places.rows) if wanted.clusters == "auto" else wanted.clusters
        sample = passes.run(SampleTexts(sample_share(places.rows, cells, layout.form.dim), layout.keys))
        if not len(sample["keys"]):  # few rows, and no hash of theirs is small enough
            sample = passes.run(SampleTexts(1.0, layout.keys))
        centroids = passes.once("cells", lambda: {"centroids": find_cells(sample, cells)})["centroids"]
        probe = min(wanted.probe, len(centroids))
        most = max(shard.rows or 0 for shard in passes.source.shards)
        pieces = layout.pieces(len(centroids), probe, most)
        route = Route(places, copies, pieces, centroids, probe)
        counts = passes.run(route)["counts"]
        units = plan_units(counts, pieces.width, max(1, UNIT_BYTES // (4 * layout.form.dim)))
        routed = merged_pieces(passes, pieces.sent(places.numbers), len(units))
        edges, nearest = Shuffle("edges", 1, EDGE), layout.to_shards("nearest", NEAR)
        find = FindPairs(places, routed, layout.form, wanted.threshold, units, edges, nearest)
        found = passes.units(find, len(units))
        return {"pairs": found["pairs"], "cells": len(centroids), "largest": counts.max()}, len(units)

    def _groups(self, passes: Passes, layout: Layout, units: int, copies: Sent) -> Partial:
        places, members = layout.places, layout.to_shards("members", MEMBER)
        join = JoinPairs(places, Shuffle("edges", 1, EDGE).sent_by(range(units)), copies, members)
        found = passes.units(join, 1)
        partitions = -(-int(found["rows"]) // MEMBERS)
        below = 0
        if partitions:
            grouped = Shuffle("grouped", partitions, grouped_row(layout.width, layout.stored))
            passes.run(SendMembers(places, members.sent_by([0]), grouped, int(found["groups"]), self._tokens))
            chosen = layout.to_shards("chosen", CHOSEN)
            sent = merged(passes, grouped.sent_by(layout.places.numbers), READINGS * partitions)
            choose = ChooseKept(places, sent, chosen, layout.form, self.section.keep, self.section.threshold)
            below = int(passes.units(choose, partitions)["below"])
        return {**found, "partitions": np.array(partitions), "below": np.array(below)}

    def _last(
        self, passes: Passes, layout: Layout, units: int, copies: Sent, partitions: int
    ) -> tuple[DuplicateColumns, int]:
        """The last pass, and the number of rows that met no other."""
        places, shards = layout.places, len(layout.places.numbers)
        nearest = merged(passes, layout.to_shards("nearest", NEAR).sent_by(range(units)), shards)
        neighbours, asked = Shuffle("neighbours", 1, NEAR), layout.to_shards("asked", EDGE)
        near = passes.run(MergeNearest(places, nearest, copies, neighbours, asked))
        ids = layout.to_shards("ids", np.dtype("u1"))
        passes.run(SendIds(places, merged(passes, asked.sent_by(layout.places.numbers), shards), ids))
        alone = int(near["alone"])
        limit = outlier_limit(near["bins"], alone, self.section.outliers)
        chosen = merged(passes, layout.to_shards("chosen", CHOSEN).sent_by(range(partitions)), shards)
        named = merged(passes, ids.sent_by(layout.places.numbers), shards)
        integer = passes.source.column_type("id") == pa.int64()
        return DuplicateColumns(places, chosen, neighbours, named, limit, integer), alone

    def text(self, summary: Mapping[str, Any]) -> list[str]:
        signs = summary["vector"] == VectorType.BINARY
        return [
            f"{summary['groups']:,} groups of near-duplicates, {summary['duplicates']:,} rows not to keep "
            f"({summary['copies']:,} of them copies of a text), {summary['kept']:,} of {summary['rows']:,} rows to keep",
            f"{summary['pairs']:,} pairs at or above {self.section.threshold:g} in {summary['cells']:,} cells; "
            f"largest group {summary['largest_group']:,} rows; {summary['below_threshold']:,} rows are below the threshold "
            "to the row that stands for them, and joined by others",
            *(["vectors are binary: cosines are those of their signs"] if signs else []),
        ]


def _classes() -> list[str]:
    ends = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(SIZES)]
    return [*ends, f"{SIZES[-1]} and more"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', heads)}{''.join(line('td', row) for row in rows)}</table>"

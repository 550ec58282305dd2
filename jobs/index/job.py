"""The job `index`: its checks, its passes, and what it tells.

    vectors held out -> files built, each asked before the held-out vectors are added -> recall -> files written

The next night builds files for new groups of shards alone (groups.py). Recall is measured on those then, and the rest keep
theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from jobs.index.config import IndexConfig, IndexSection
from jobs.index.files import catalog, current_files, files_of
from jobs.index.groups import divided
from jobs.passes.config import JobConfig
from jobs.passes.kind import Check, JobKind, Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.records.shard import Shard
from workers.table.schema import TEXT_HASH
from workers.vectors.index.build_files import EXPANSIONS, BuildFiles, recall
from workers.vectors.index.catalog import CATALOG
from workers.vectors.index.held_out import HeldOut, Questions
from workers.vectors.index.index_file import IndexShape, usearch_index
from workers.vectors.index.write_files import WriteFiles
from workers.vectors.step import Partial

_ONE_IN = 20  # rows: at most one of so many is held out


class IndexJob(JobKind):
    """Index files of a snapshot."""

    name = "index"

    def __init__(self, config: JobConfig) -> None:
        super().__init__(config)
        self._section = cast("IndexConfig", config).index

    @property
    def section(self) -> IndexSection:
        return self._section

    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        usearch_index()
        if not source.rows:
            raise UsageError(f"index.snapshot={source.uri}: holds no rows, so there is nothing to index; embed first")
        return (TEXT_HASH,)

    def divide(self, source: SourceSnapshot, kept: Kept | None) -> Sequence[Shard]:
        return divided(source, kept, self.section.rows_per_file)

    def program(self, passes: Passes, kept: Kept | None) -> Outcome:
        source, section = passes.source, self.section
        shape = IndexShape(
            source.dim, section.precision, section.connectivity, section.expansion, tokens=source.schema.lists
        )
        new = [shard for shard in source.shards if kept is None or kept.is_new(shard)]
        step, built = self._build(passes, shape, new)
        files = current_files(source.shards, ({} if kept is None else kept.state, built))
        shares = _shares(files)
        expansion = next((number for number, share in shares.items() if share >= section.aim), EXPANSIONS[-1])
        bytes_, vectors = int(files["file_bytes"].sum()), int(files["file_vectors"].sum())
        facts = {
            "recall_at_10": round(shares[expansion], 6),
            "recall_by_expansion": {str(number): round(share, 6) for number, share in shares.items()},
            "expansion_search": expansion,
            "rows": source.rows,
            "vectors": vectors,
            "rows_gone": sum(shard.rows or 0 for shard in source.shards) - source.rows,
            "files": len(files["file_bytes"]),
            "files_built": sum(len(values) for name, values in built.items() if name == "file_bytes"),
            "bytes": bytes_,
            "bytes_of_float32": vectors * source.dim * 4,
            "held_out": len(step.questions.vectors),
            "file_precision": section.precision,
        }
        return Outcome(
            step=WriteFiles(step),
            facts=facts,
            checks=[self._check_recall(shares[expansion], expansion)],
            state=files,
            carry=kept is not None,
            tables={CATALOG: catalog(source.shards, files, shape, expansion)},
            report=[("Recall", _page(shares, expansion))],
        )

    def text(self, summary: Mapping[str, Any]) -> list[str]:
        share = summary["bytes"] / max(1, summary["bytes_of_float32"])
        return [
            f"recall@10 {summary['recall_at_10']:.4f} with {summary['expansion_search']} candidates, "
            f"of {summary['held_out']:,} vectors held out",
            f"{summary['files']:,} files ({summary['files_built']:,} built now), {summary['vectors']:,} vectors, "
            f"{summary['bytes'] / 1e6:,.1f} MB: {share:.2f} of float32",
        ]

    def _build(self, passes: Passes, shape: IndexShape, new: Sequence[Shard]) -> tuple[BuildFiles, Partial]:
        """The pass that builds, and its files; none if every shard is carried over."""
        section = self.section
        count = min(section.held_out, max(1, sum(shard.rows or 0 for shard in new) // _ONE_IN))
        if not new:
            nothing = np.empty(0, np.int64)
            questions = Questions(np.empty((0, shape.dim), np.float32), nothing, nothing)
            return BuildFiles(shape, section.rows_per_file, questions), {}
        questions = Questions.of(passes.run(HeldOut(count), new))
        step = BuildFiles(shape, section.rows_per_file, questions)
        answer = passes.run(step, new)
        shares = recall(answer)
        return step, files_of(new, answer, [shares[expansion] for expansion in EXPANSIONS])

    def _check_recall(self, share: float, expansion: int) -> Check:
        least = self.section.min_recall
        if share >= least:
            return Check("recall", True, "", share, least)
        reason = (
            f"recall@10 is {share:.4f} with {expansion} candidates, below index.min_recall={least}; "
            "raise index.expansion or index.connectivity, or choose another index.precision"
        )
        return Check("recall", False, reason, share, least)


def _shares(files: Partial) -> dict[int, float]:
    """Recall@10 by expansion: each file counts with its vectors, and with the recall of the night in which it was built."""
    weights = files["file_vectors"] / max(1, int(files["file_vectors"].sum()))
    return {number: float(weights @ files["file_recall"][:, at]) for at, number in enumerate(EXPANSIONS)}


def _page(shares: Mapping[int, float], chosen: int) -> str:
    rows = "".join(
        f"<tr><td>{number}{' (searches use it)' if number == chosen else ''}</td><td>{share:.4f}</td></tr>"
        for number, share in shares.items()
    )
    return f"<table><tr><th>candidates</th><th>recall@10</th></tr>{rows}</table>"

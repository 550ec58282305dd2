"""Commands that run a job over a snapshot: `reduce`, `cluster`, `dedup`, `index`, `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options.arguments import Config, Json, Overrides, Target
from jobs.commands.options.results import end_refused_unless, show, stdout_kept

if TYPE_CHECKING:
    from jobs.passes.kind import JobKind


def reduce(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Make a snapshot of fewer components (PCA) of a snapshot. Resumes; the same command again is a no-op."""
    from jobs.config import load_section
    from jobs.reduce.config import ReduceConfig
    from jobs.reduce.job import Reduce

    _run(Reduce(load_section(config, overrides or (), ReduceConfig)), as_json)


def cluster(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """k-means over a snapshot: every row's cluster, words and examples of each, a map. Resumes; again it is a no-op."""
    from jobs.cluster.config import ClusterJobConfig
    from jobs.cluster.job import ClusterJob
    from jobs.config import load_section

    _run(ClusterJob(load_section(config, overrides or (), ClusterJobConfig)), as_json)


def dedup(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Near-duplicate groups of a snapshot, and which row of each to keep. Resumes; again it is a no-op."""
    from jobs.config import load_section
    from jobs.dedup.config import DedupConfig
    from jobs.dedup.job import DedupJob

    _run(DedupJob(load_section(config, overrides or (), DedupConfig)), as_json)


def index(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Files for approximate search beside a snapshot; `search --index` uses them. Resumes; again it is a no-op."""
    from jobs.config import load_section
    from jobs.index.config import IndexConfig
    from jobs.index.job import IndexJob

    _run(IndexJob(load_section(config, overrides or (), IndexConfig)), as_json)


def evaluate(
    target: Target,
    overrides: Overrides = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Kept column that holds the classes.")] = None,
    as_json: Json = False,
) -> None:
    """How good the vectors of a snapshot are, by labels, queries or graded pairs. OUTPUT_URI with --label writes nothing."""
    from jobs.config import load_section
    from jobs.evaluate.config import EvaluateConfig
    from jobs.evaluate.job import EvaluateJob
    from jobs.evaluate.look import evaluate_snapshot, look_text

    if not target.endswith((".yaml", ".yml")):
        show(evaluate_snapshot(target, label, overrides or ()), as_json, look_text)
        return
    settings = [*(overrides or ()), *([f"evaluate.label={label}"] if label else ())]
    _run(EvaluateJob(load_section(target, settings, EvaluateConfig)), as_json)


def _run(kind: JobKind, as_json: bool) -> None:
    from jobs.passes.job import run_job
    from jobs.passes.summary import summary_text

    with stdout_kept():
        summary = run_job(kind)
    show(summary, as_json, lambda report: summary_text(kind, report))
    end_refused_unless(summary["published"])

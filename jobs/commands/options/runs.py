"""Commands that make a snapshot, or tell how that goes: `embed`, `plan`, `status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options.arguments import Json, Target
from jobs.commands.options.results import end_refused_unless, show, stdout_kept
from jobs.commands.options.settings import with_settings

if TYPE_CHECKING:
    from jobs.config import RunConfig


@with_settings
def embed(config: RunConfig, as_json: Json = False) -> None:
    """Run, or resume what was interrupted. The same command again is a no-op."""
    from jobs.embed.job import embed_corpus
    from jobs.report.summary import summary_text

    with stdout_kept():
        summary = embed_corpus(config)
    show(summary, as_json, summary_text)
    end_refused_unless(summary["published"])


@with_settings
def plan(
    config: RunConfig,
    must_fit: Annotated[
        bool, typer.Option("--must-fit", help="Exit with 2 if it exceeds cost.max_tokens or cost.max_usd.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Dry run: objects, shards, rows, estimated tokens, GPU-hours, cost, output size. Writes nothing."""
    from jobs.commands.plan import plan_run, plan_text
    from jobs.planning.spending import require_fit

    report = plan_run(config)
    if must_fit:
        require_fit(report)
    show(report, as_json, plan_text)


def status(target: Target, as_json: Json = False) -> None:
    """Progress of the newest run, from storage alone, from any machine."""
    from jobs.commands.status import run_status, status_text

    show(run_status(target), as_json, status_text)

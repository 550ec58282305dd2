"""Commands on the snapshots of an output: `verify`, `files`, `snapshots`, `rollback`, `publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.options.arguments import Json, Output, RunId, Target
from jobs.commands.options.results import end_refused_unless, show


def verify(
    target: Target,
    sample: Annotated[int, typer.Option(min=0, help="Rows to embed again and compare.")] = 64,
    as_json: Json = False,
) -> None:
    """Audit the published snapshot against its source; names the part that is wrong."""
    from jobs.commands.verify import verify_snapshot, verify_text

    report = verify_snapshot(target, sample)
    show(report, as_json, verify_text)
    end_refused_unless(report["ok"])


def files(output: Output, as_json: Json = False) -> None:
    """The part files of the published snapshot, one URI a line."""
    from jobs.commands.files import published_files

    found = published_files(output)
    show({"files": found}, as_json, lambda report: "\n".join(report["files"]))


def snapshots(target: Target, as_json: Json = False) -> None:
    """Finished runs whose data is kept: rows, model, when, size, and which one readers have."""
    from jobs.commands.snapshots import list_snapshots, snapshots_text

    show(list_snapshots(target), as_json, snapshots_text)


def rollback(target: Target, run_id: RunId, as_json: Json = False) -> None:
    """Give readers a snapshot that was published before, in one step."""
    from jobs.commands.rollback import roll_back, rollback_text

    show(roll_back(target, run_id), as_json, rollback_text)


def publish(
    target: Target,
    run_id: RunId,
    force: Annotated[bool, typer.Option("--force", help="Publish all the same; who did it is recorded.")] = False,
    as_json: Json = False,
) -> None:
    """Say why a finished run was not published; with --force publish it."""
    from jobs.commands.publish import publish_run, publish_text

    report = publish_run(target, run_id, force=force)
    show(report, as_json, publish_text)
    end_refused_unless(report["published"])

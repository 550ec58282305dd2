"""Chooses the run of a command: an interrupted run, an ended one, or a new one.

    find_resumable     an unfinished run of the same settings. Its manifest is used, even if the source has changed since
    plan_or_reopen     lists the source, and returns an ended run of the same settings and source, or a new PlannedRun that
                       reuses vectors of the published snapshot (reuse.py). Writes nothing

An ended run is never embedded again: it is published or refused again from its receipts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from jobs.corpus.discovery import discover
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from jobs.planning.reuse import find_reuse, known_objects, open_base
from jobs.planning.run import Run
from jobs.planning.sharding import cut
from jobs.state.records import find_unfinished, new_run_id, newest_run
from workers.table.schema import output_schema


def find_resumable(request: Request) -> Run | None:
    """The newest unfinished run of these settings. Raises: UsageError, RunAborted, TransientError."""
    record = find_unfinished(request.store, request.settings)
    return Run.open(request, record) if record else None


def plan_or_reopen(request: Request, *, reuse: bool = True) -> Run | PlannedRun:
    """List the source, and return an ended run of the same settings and source, or a new one that is not yet on storage.

    `reuse=False`: as if run.reuse were off.

    Raises:
        UsageError: the source or its columns do not match the configuration; nothing was written.
    """
    config = request.config
    base = open_base(request.store) if reuse and config.run.reuse == "auto" else None
    corpus = discover(config.corpus, config.output.partition_by, known_objects(base, config) if base else None)
    made_before = newest_run(request.store, request.settings, corpus.source_fingerprint)
    if made_before is not None:
        return Run.open(request, made_before)
    if request.excluded is not None:
        corpus = replace(corpus, read_plan=replace(corpus.read_plan, exclusion=request.excluded.pinned))
    matched = find_reuse(base, config, request.vector_facts, request.recipe, corpus) if base else None
    shards = cut(corpus, config.run.shard_bytes, id_given=config.corpus.id is not None, reuse=matched)
    run_id = new_run_id(request.settings, datetime.now(UTC))
    run = PlannedRun(request, run_id, shards, corpus.read_plan, corpus, base, matched)
    output_schema(run.plan, run.stamp, config.output.partition_by)  # refuses an impossible schema before anything is written
    return run

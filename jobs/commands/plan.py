"""`reembed plan`: estimates the work and cost of a run, from a listing, footers and a small sample. A dry run.

objects, shards, rows    as the run itself would plan them, including shards carried over from the published snapshot
rows to embed, tokens    of the other shards, from a sample of their documents             (jobs/planning/estimate.py)
GPU-hours, cost          tokens / the rate of the newest run on this output; unknown before the first
output bytes             rows x bytes of a row, from the newest run on this output, else from the vector's size
budget                   what of the limits is spent, and whether the rest fits           (jobs/planning/spending.py)
warnings                 what in the cut leaves replicas idle                              (jobs/planning/parallelism.py)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.config import RunConfig
from jobs.planning.choose_run import find_resumable, plan_or_reopen
from jobs.planning.estimate import measured, plain_row_bytes, rows_of, sample_shards, to_embed
from jobs.planning.parallelism import WORTH_CUTTING, idle_replicas
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from jobs.planning.run import Run
from jobs.planning.spending import budget_text, planned_budget, spent_before
from jobs.state.accounting import Work
from jobs.state.ledger import load_receipts
from jobs.state.stored_shards import pending
from workers.reading.typed.type_names import type_name
from workers.records.shard import Receipt, Shard

_FITS = {True: "fits", False: "does NOT fit: the run would end before that", None: "may fit: no run has measured a rate"}


def plan_run(config: RunConfig) -> dict[str, Any]:
    """Raises: UsageError: the run could not start."""
    request = Request.resolve(config)
    resumed = find_resumable(request)
    run = resumed or plan_or_reopen(request)
    done: Mapping[int, Receipt] = load_receipts(run.store, run.run_id) if isinstance(run, Run) else {}
    carried = _carried(run, pending(run.shards, done))
    left = pending(run.shards, {**done, **carried})
    sample = sample_shards(run, left)
    work = to_embed(left, sample, request.kept_share)
    rows = sum(receipt.rows_read for receipt in (*done.values(), *carried.values()))
    rows += sum(rows_of(shard, sample) for shard in left)
    rate, row_bytes = measured(request.store, request.stored_facts)
    hours = work.tokens / rate / 3600 if rate else None if left else 0.0
    price = config.cost.gpu_hour_usd
    cost = round(hours * price, 4) if hours is not None and price is not None else None
    spent = spent_before(sum(each.tokens for each in done.values()), run.work() if isinstance(run, Run) else Work())
    return {
        "run_id": run.run_id if isinstance(run, Run) else None,
        "action": "resume" if resumed else _action(run),
        "objects": len({piece.uri for shard in run.shards for piece in shard.slices}),
        "shards": len(run.shards),
        "rows": rows,
        "rows_estimated": any(shard.rows is None for shard in left),
        "text_bytes": sum(shard.text_bytes for shard in run.shards),
        "reuse": {
            "base": _base(run),
            "objects": run.objects,
            "carried_shards": len(carried),
            "carried_rows": sum(receipt.rows for receipt in carried.values()),
        },
        "exclude": dataclasses.asdict(run.plan.exclusion) if run.plan.exclusion else None,
        "table": {name: getattr(run.plan.table, name) for name in ("format", "uri", "version")} if run.plan.table else None,
        "rows_to_embed": work.rows,
        "estimated_tokens": work.tokens,
        "tokens_per_second_per_replica": round(rate, 1) if rate else None,
        "replica_hours": round(hours, 4) if hours is not None else None,
        "cost_usd": cost,
        "budget": planned_budget(config.cost, spent, work.tokens, cost),
        "warnings": _warnings(config, left),
        "output_bytes": round(rows * request.kept_share * (row_bytes or plain_row_bytes(run, sample))),
        "id_type": str(run.plan.id_type),
        "keep": {column.name: type_name(column.type) for column in run.plan.keep},
        "model": {"name": request.model.name, "dim": request.recipe.dim, "pooling": request.recipe.pooling_name,
                  "max_tokens": request.recipe.max_tokens, "normalize": request.recipe.normalize},
    }  # fmt: skip


def plan_text(report: dict[str, Any]) -> str:
    def known(value: object, unit: str) -> str:
        return f"{value} {unit}" if value is not None else "unknown before a first run has measured it"

    cost, reuse, left_out, table = report["cost_usd"], report["reuse"], report["exclude"], report["table"]
    rows = f"{'about ' if report['rows_estimated'] else ''}{report['rows']:,} rows"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in reuse["objects"].items())
    carried = f"{reuse['carried_rows']:,} rows in {reuse['carried_shards']:,} shards carried over from {reuse['base']}"
    return "\n".join([
        f"plan: {report['action']}" + (f" {report['run_id']}" if report["run_id"] else ""),
        f"  source      {report['objects']:,} objects, {rows}, {report['text_bytes']:,} bytes of text",
        *([f"  table       {table['format']} {table['uri']} at version {table['version']}"] if table else []),
        f"  compared    objects {kinds or 'of an earlier version of this program'}",
        f"  shards      {report['shards']:,}",
        f"  reuse       {carried if reuse['base'] else 'nothing'}",
        *(
            [f"  excluded    {left_out['rows']:,} rows that run {left_out['run_id']} of {left_out['uri']} says not to keep"]
            if left_out
            else []
        ),
        f"  to embed    about {report['rows_to_embed']:,} rows, {report['estimated_tokens']:,} tokens",
        f"  time        {known(report['replica_hours'], 'replica-hours')}",
        f"  cost        {f'{cost} USD' if cost is not None else 'unknown: needs the time, and cost.gpu_hour_usd'}",
        *_budget_lines(report["budget"]),
        f"  output      about {report['output_bytes']:,} bytes",
        f"  model       {report['model']['name']} {report['model']['pooling']} {report['model']['dim']}",
        *(f"  warning     {warning}" for warning in report["warnings"]),
    ])  # fmt: skip


def _budget_lines(facts: Mapping[str, Any] | None) -> list[str]:
    return [f"  budget      {budget_text(facts)}; what is left {_FITS[facts['fits']]}"] if facts else []


def _warnings(config: RunConfig, left: Sequence[Shard]) -> list[str]:
    """What leaves replicas idle. `auto` depends on the cluster, which is not asked: then whether two can share the work."""
    replicas = config.cluster.replicas
    if replicas == "auto":
        idle = idle_replicas(left, 2, config.corpus, least_bytes=WORTH_CUTTING)
        return [f"only one replica will have work, however many there are: {idle.cause}; {idle.mend}"] if idle else []
    idle = idle_replicas(left, replicas, config.corpus)
    return [f"{replicas - idle.busy} of {replicas} replicas will be idle: {idle.cause}; {idle.mend}"] if idle else []


def _action(run: Run | PlannedRun) -> str:
    if isinstance(run, PlannedRun):
        return "new run"
    return "nothing to do" if run.current else "publish again"


def _base(run: Run | PlannedRun) -> str | None:
    if isinstance(run, Run):
        return run.record.base
    return run.reuse.base if run.reuse else None


def _carried(run: Run | PlannedRun, shards: Sequence[Shard]) -> dict[int, Receipt]:
    """Shard number -> the base's receipt whose parts are copied for it."""
    base = _base(run)
    if base is None or all(shard.carried is None for shard in shards):
        return {}
    receipts = load_receipts(run.store, base)
    return {
        shard.number: receipts[shard.carried] for shard in shards if shard.carried is not None and shard.carried in receipts
    }

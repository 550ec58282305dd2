"""The summary of a run: what was planned, embedded, quarantined and published, as summary.json and as text.

Figures come from receipts on storage (what is committed) and from the replicas' own totals (time and attempts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.planning.spending import budget_text
from jobs.state.accounting import Totals, Work
from jobs.state.records import RunState


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a summary says of the run itself. `shards`: how many were planned; `facts`: RunRecord.facts() and more."""

    run_id: str
    data: str  # URI of the snapshot's folder
    shards: int
    facts: Mapping[str, Any]
    gpu_hour_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `quarantined_rows_is_minimum`: an object that could not be read hides how many more there are."""

    state: RunState
    quarantined_rows: int
    quarantined_rows_is_minimum: bool = False
    quarantined_shards: Mapping[int, str] = field(default_factory=dict)  # number -> reason
    reasons: Sequence[str] = ()  # why it is not published
    published: bool = False


def build_summary(run: RunFacts, ending: Ending, sums: Totals, work: Work) -> dict[str, Any]:
    """summary.json, and the object that `--json` prints."""
    again = max(0, work.documents_embedded - (sums.documents - sums.carried_documents)) if work.documents_embedded else 0
    hours = work.replica_seconds / 3600
    return {
        "run_id": run.run_id,
        "state": ending.state.value,
        "published": ending.published,
        "reasons": list(ending.reasons),
        "data": run.data,
        "documents": sums.documents,
        "rows": sums.rows,
        "quarantined_rows": ending.quarantined_rows,
        "quarantined_rows_is_minimum": ending.quarantined_rows_is_minimum,
        "excluded_rows": sums.excluded_rows,
        "reused_rows": sums.reused_rows,
        "repeated_rows": sums.repeated_rows,
        "reembedded_rows": again,
        "adopted_shards": sums.adopted,
        "truncated": sums.truncated,
        "duplicate_ids_within_shards": sums.duplicate_ids,
        "tokens": sums.tokens,
        "padded_tokens": sums.padded_tokens,
        "shards": {
            "planned": run.shards,
            "done": sums.shards,
            "quarantined": len(ending.quarantined_shards),
        },
        "quarantined_shards": {str(number): reason for number, reason in sorted(ending.quarantined_shards.items())},
        "lost_objects": sorted(sums.lost_objects),
        "output_bytes": sums.output_bytes,
        "seconds": work.seconds,
        "tokens_per_second": round(sums.tokens / work.seconds, 1) if work.seconds else 0.0,
        "stage_seconds": {name: round(value, 3) for name, value in sums.stage_seconds.items()},
        "replica_busy_fraction": round(work.busy_seconds / work.replica_seconds, 4) if work.replica_seconds else 0.0,
        "replica_hours": round(hours, 4),
        "cost_usd": round(hours * run.gpu_hour_usd, 4) if run.gpu_hour_usd is not None else None,
        "attempts": work.attempts,
        "sessions": work.sessions,
        "peak_memory_bytes": work.peak_memory_bytes,
        **run.facts,
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal."""
    shards, stages = summary["shards"], summary["stage_seconds"]
    lines = [
        f"run {summary['run_id']}: {summary['state']}" + (" (nothing to do)" if summary.get("unchanged") else ""),
        f"  documents   {summary['documents']:,} in {summary['rows']:,} rows; quarantined "
        + ("at least " if summary["quarantined_rows_is_minimum"] else "")
        + f"{summary['quarantined_rows']:,} rows"
        + f"; truncated {summary['truncated']:,}",
        *_excluded_lines(summary),
        f"  shards      {shards['done']}/{shards['planned']} done, {shards['quarantined']} quarantined, "
        f"{summary['attempts']} attempts, {summary['reembedded_rows']:,} documents embedded again, "
        f"{summary['adopted_shards']} adopted",
        f"  tokens      {summary['tokens']:,} ({summary['tokens_per_second']:,.0f}/s over {summary['seconds']:,.1f} s), "
        f"padding {_share(summary['padded_tokens'] - summary['tokens'], summary['padded_tokens'])}",
        *_reuse_lines(summary),
        *([f"  budget      {budget_text(summary['budget'])}"] if summary.get("budget") else []),
        f"  replicas    busy {summary['replica_busy_fraction']:.0%}; stage seconds "
        + ", ".join(f"{name} {seconds:,.1f}" for name, seconds in stages.items()),
        f"  model       {summary['model']['name']} {summary['model']['pooling']} {summary['model']['dim']} x "
        f"{summary['model']['vector']} ({summary['model']['precision']})",
        f"  gate        {_gate(summary.get('gate', []))}",
        f"  published   {'yes' if summary['published'] else 'NO'}: {summary['data']}",
    ]
    lines += [f"  reason      {reason}" for reason in summary["reasons"]]
    return "\n".join(lines)


def _excluded_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line, if corpus.exclude is given."""
    pinned = summary.get("exclude")
    if not pinned:
        return []
    return [
        f"  excluded    {summary['excluded_rows']:,} rows, of {pinned['rows']:,} that run {pinned['run_id']} of "
        f"{pinned['uri']} says not to keep"
    ]


def _reuse_lines(summary: dict[str, Any]) -> list[str]:
    """One line, if there was an earlier snapshot to compare with."""
    reuse = summary.get("reuse") or {}
    objects = reuse.get("objects") or {}
    if not reuse.get("base") and not sum(count for kind, count in objects.items() if kind != "new"):
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in objects.items())
    return [
        f"  reuse       objects {kinds}; {summary['reused_rows']:,} rows reused, {reuse.get('carried_shards', 0):,} shards "
        f"carried over from {reuse.get('base') or 'nothing'}, {summary.get('repeated_rows', 0):,} texts repeated"
    ]


def _gate(checks: list[dict[str, Any]]) -> str:
    if not checks:
        return "not judged"
    failed = [check["name"] for check in checks if not check["ok"]]
    skipped = sum(check["skipped"] for check in checks)
    return f"failed: {', '.join(failed)}" if failed else f"passed ({len(checks)} checks, {skipped} skipped)"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole > 0 else "0%"

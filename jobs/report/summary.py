"""The bill: what was planned, embedded, quarantined and published, as summary.json and as text.

Figures come from receipts on storage (what is committed) and the replicas' own totals (what it took); nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.state.ledger import Totals
from workers.records.shard import ReplicaStats


@dataclass(frozen=True, slots=True)
class Work:
    """What the drivers of a run spent on it, summed over restarts. A driver that is killed loses its last seconds of it."""

    sessions: int = 1
    attempts: int = 0  # shards handed to a replica
    documents_embedded: int = 0  # each time it goes through a replica, its vector computed or found
    seconds: float = 0.0
    busy_seconds: float = 0.0
    replica_seconds: float = 0.0  # time replicas were ready, the basis of cost
    peak_memory_bytes: int = 0  # largest replica process

    def plus(self, attempts: int, seconds: float, replicas: Iterable[ReplicaStats]) -> Work:
        """This work and what the present driver has added so far."""
        stats = list(replicas)
        return Work(
            sessions=self.sessions,
            attempts=self.attempts + attempts,
            documents_embedded=self.documents_embedded + sum(item.documents for item in stats),
            seconds=round(self.seconds + seconds, 3),
            busy_seconds=round(self.busy_seconds + sum(item.busy_seconds for item in stats), 3),
            replica_seconds=round(self.replica_seconds + sum(item.uptime_seconds for item in stats), 3),
            peak_memory_bytes=max([self.peak_memory_bytes, *(item.peak_memory_bytes for item in stats)]),
        )


def build_summary(
    *,
    run_id: str,
    state: str,
    published: bool,
    data: str,
    planned: int,
    quarantined_shards: Mapping[int, str],
    totals: Totals,
    quarantined_rows: int,
    quarantined_rows_is_minimum: bool,
    work: Work,
    facts: Mapping[str, Any],
    gpu_hour_usd: float | None,
    reasons: list[str],
) -> dict[str, Any]:
    """summary.json, and the object that `--json` prints.

    `quarantined_rows_is_minimum`: an object that could not be read hides how many more there are.
    """
    # at least: of what a killed driver embedded and did not finish, its last seconds are not known
    again = max(0, work.documents_embedded - (totals.documents - totals.carried_documents)) if work.documents_embedded else 0
    hours = work.replica_seconds / 3600
    return {
        "run_id": run_id,
        "state": state,
        "published": published,
        "reasons": reasons,
        "data": data,
        "documents": totals.documents,
        "rows": totals.rows,
        "quarantined_rows": quarantined_rows,
        "quarantined_rows_is_minimum": quarantined_rows_is_minimum,
        "reused_rows": totals.reused_rows,
        "repeated_rows": totals.repeated_rows,
        "reembedded_rows": again,
        "adopted_shards": totals.adopted,
        "truncated": totals.truncated,
        "duplicate_ids_within_shards": totals.duplicate_ids,
        "tokens": totals.tokens,
        "padded_tokens": totals.padded_tokens,
        "shards": {
            "planned": planned,
            "done": totals.shards,
            "quarantined": len(quarantined_shards),
        },
        "quarantined_shards": {str(number): reason for number, reason in sorted(quarantined_shards.items())},
        "lost_objects": sorted(totals.lost_objects),
        "output_bytes": totals.output_bytes,
        "seconds": work.seconds,
        "tokens_per_second": round(totals.tokens / work.seconds, 1) if work.seconds else 0.0,
        "stage_seconds": {name: round(value, 3) for name, value in totals.stage_seconds.items()},
        "replica_busy_fraction": round(work.busy_seconds / work.replica_seconds, 4) if work.replica_seconds else 0.0,
        "replica_hours": round(hours, 4),
        "cost_usd": round(hours * gpu_hour_usd, 4) if gpu_hour_usd is not None else None,
        "attempts": work.attempts,
        "sessions": work.sessions,
        "peak_memory_bytes": work.peak_memory_bytes,
        **facts,
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    shards, stages = summary["shards"], summary["stage_seconds"]
    lines = [
        f"run {summary['run_id']}: {summary['state']}" + (" (nothing to do)" if summary.get("unchanged") else ""),
        f"  documents   {summary['documents']:,} in {summary['rows']:,} rows; quarantined "
        + ("at least " if summary["quarantined_rows_is_minimum"] else "")
        + f"{summary['quarantined_rows']:,} rows"
        + f"; truncated {summary['truncated']:,}",
        f"  shards      {shards['done']}/{shards['planned']} done, {shards['quarantined']} quarantined, "
        f"{summary['attempts']} attempts, {summary['reembedded_rows']:,} documents embedded again, "
        f"{summary['adopted_shards']} adopted",
        f"  tokens      {summary['tokens']:,} ({summary['tokens_per_second']:,.0f}/s over {summary['seconds']:,.1f} s), "
        f"padding {_share(summary['padded_tokens'] - summary['tokens'], summary['padded_tokens'])}",
        *_reuse_lines(summary),
        f"  replicas    busy {summary['replica_busy_fraction']:.0%}; stage seconds "
        + ", ".join(f"{name} {seconds:,.1f}" for name, seconds in stages.items()),
        f"  model       {summary['model']['name']} {summary['model']['pooling']} {summary['model']['dim']} x "
        f"{summary['model']['vector']} ({summary['model']['precision']})",
        f"  gate        {_gate(summary.get('gate', []))}",
        f"  published   {'yes' if summary['published'] else 'NO'}: {summary['data']}",
    ]
    lines += [f"  reason      {reason}" for reason in summary["reasons"]]
    return "\n".join(lines)


def _reuse_lines(summary: dict[str, Any]) -> list[str]:
    """One line, where there was something to compare with."""
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

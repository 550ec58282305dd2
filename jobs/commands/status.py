"""`reembed status`: the state of the newest run, read from storage alone, so it works on any machine while the job runs."""

from __future__ import annotations

from typing import Any

from jobs.publish.open_snapshot import open_store
from jobs.state.current import read_current
from jobs.state.receipt_log import count_receipts
from jobs.state.records import newest_run, read_status, read_summary
from workers.errors import UsageError
from workers.storage.uris import redact


def run_status(target: str) -> dict[str, Any]:
    """The newest run's state and figures, and what is published.

    Done shards are counted by receipts, not taken from the last status. Raises: UsageError: no run there.
    """
    store, _ = open_store(target)
    newest = newest_run(store)
    if newest is None:
        raise UsageError(f"{redact(store.uri)}: no run was ever begun there; run `reembed embed` first, or correct the uri")
    status = read_status(store, newest.run_id) or {}
    summary = read_summary(store, newest.run_id)
    done = count_receipts(store, newest.run_id)
    current = read_current(store)
    ended = summary is not None and summary.get("sessions", 0) >= status.get("work", {}).get("sessions", 0)
    source = summary if summary is not None and ended else status
    return {
        "run_id": newest.run_id,
        "state": source.get("state", "running"),
        "updated": status.get("updated"),
        "created": newest.created,
        "shards": {**source.get("shards", {}), "planned": newest.shards, "done": done},
        "documents": source.get("documents", 0),
        "quarantined_rows": source.get("quarantined_rows", 0),
        "tokens_per_second": source.get("tokens_per_second", 0.0),
        "eta_seconds": None if ended else status.get("eta_seconds"),
        "replicas_alive": 0 if ended else status.get("replicas_alive", 0),
        "replicas": [] if ended else status.get("replicas", []),
        "reason": status.get("reason") or "; ".join(source.get("reasons", [])) or None,
        "published_run": current.run_id if current else None,
        "data": current.data if current else None,
    }


def status_text(report: dict[str, Any]) -> str:
    shards = report["shards"]
    lines = [
        f"run {report['run_id']}: {report['state']}, last word {report['updated'] or 'none yet'}",
        f"  shards      {shards['done']}/{shards['planned']} done, {shards.get('quarantined', 0)} quarantined",
        f"  documents   {report['documents']:,} committed, {report['quarantined_rows']:,} rows quarantined",
        f"  speed       {report['tokens_per_second']:,.0f} tokens/s"
        + (f", {report['eta_seconds']} s to go" if report["eta_seconds"] is not None else ""),
    ]
    lines += [
        f"  replica {view['replica']}   {view.get('node', '')} {view.get('device', '')} busy {view['busy']:.0%}"
        for view in report["replicas"]
    ]
    if report["replicas_alive"] > len(report["replicas"]):
        lines.append(f"  …           and {report['replicas_alive'] - len(report['replicas'])} replicas more")
    if report["reason"]:
        lines.append(f"  reason      {report['reason']}")
    lines.append(f"  published   {report['published_run'] or 'nothing yet'}")
    return "\n".join(lines)

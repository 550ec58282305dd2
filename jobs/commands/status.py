"""`reembed status`: the state of the newest run, read from storage alone, so it works on any machine while the job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.driver.claims import Claim, working_driver
from jobs.publish.open_snapshot import open_store
from jobs.state.current import read_current
from jobs.state.receipt_log import count_receipts
from jobs.state.records import newest_run, read_status, read_summary
from workers.errors import UsageError
from workers.storage.uris import redact


def run_status(target: str) -> dict[str, Any]:
    """The newest run's state and figures, what is published, and the driver that holds the lock.

    Done shards are counted by receipts, not taken from the last status. A driver holds the lock before its run has begun:
    while it starts replicas, `starting` is true, and a first run has no figures. Raises: UsageError: no run there.
    """
    store, _ = open_store(target)
    newest, driver = newest_run(store), working_driver(store)
    if newest is None and driver is not None:
        return _not_begun(driver)
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
        "driver": _holder(driver),
        "starting": driver is not None and (ended or not status.get("replicas_alive", 0)),
        "reason": status.get("reason") or "; ".join(source.get("reasons", [])) or None,
        "published_run": current.run_id if current else None,
        "data": current.data if current else None,
    }


def _not_begun(driver: Claim) -> dict[str, Any]:
    """The report while the first driver of an output starts."""
    return {
        "run_id": None, "state": "starting", "updated": None, "created": None, "shards": {"planned": 0, "done": 0},
        "documents": 0, "quarantined_rows": 0, "tokens_per_second": 0.0, "eta_seconds": None, "replicas_alive": 0,
        "replicas": [], "driver": _holder(driver), "starting": True, "reason": None, "published_run": None, "data": None,
    }  # fmt: skip


def _holder(driver: Claim | None) -> dict[str, Any] | None:
    if driver is None:
        return None
    return {"host": driver.holder.host, "pid": driver.holder.pid, "user": driver.holder.user, "since": driver.since}


def _driver_line(report: Mapping[str, Any]) -> str:
    holder = report["driver"]
    what = "starts: no replica is ready yet" if report["starting"] else "works"
    return f"  driver      pid {holder['pid']} of {holder['user']} on {holder['host']} {what} (since {holder['since']})"


def status_text(report: dict[str, Any]) -> str:
    if report["run_id"] is None:
        return f"no run has begun yet\n{_driver_line(report)}\n  published   nothing yet"
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
    if report["driver"]:
        lines.append(_driver_line(report))
    if report["reason"]:
        lines.append(f"  reason      {report['reason']}")
    lines.append(f"  published   {report['published_run'] or 'nothing yet'}")
    return "\n".join(lines)

"""`reembed snapshots`: lists the finished runs whose data still exists, newest first, from storage alone.

It makes two requests for each run (run.json, summary.json), one for CURRENT.json, which holds what readers have and had, and
two for each consumer of change sets.
Runs that retention deleted are not listed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.publish.consumers import held_runs
from jobs.publish.open_snapshot import open_store
from jobs.state.current import Current, read_current
from jobs.state.records import RunState, read_summary, run_folders
from jobs.state.stored_run import StoredRun
from workers.errors import UsageError
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RunPaths

_THREADS = 16
_FINISHED = (RunState.COMPLETE.value, RunState.REFUSED.value)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def list_snapshots(target: str) -> dict[str, Any]:
    """Finished runs, newest first, and the current one. Raises: UsageError: no run was ever begun there."""
    store, _ = open_store(target)
    current = read_current(store)
    ids = run_folders(store)[::-1]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda run_id: _describe(store, run_id, current), ids))
    held = held_runs(store)
    if not ids and current is None:
        raise UsageError(f"{redact(store.uri)}: no run was ever begun there; run `reembed embed` first, or correct the uri")
    return {
        "output": redact(store.uri),
        "current": current.run_id if current else None,
        "snapshots": [item | {"consumers": held.get(item["run_id"], [])} for item in found if item is not None],
    }


def snapshots_text(report: dict[str, Any]) -> str:
    """One line for each run."""
    lines = [f"{report['output']}: {len(report['snapshots'])} snapshots, current {report['current'] or 'none'}"]
    for item in report["snapshots"]:
        model = item["model"]
        lines.append(
            f"{'*' if item['current'] else ' '} {item['run_id']}  {item['rows']:>13,} rows  {_size(item['bytes']):>10}  "
            f"{model['name']} {model['pooling']} {model['dim']} x {model['vector']} ({model['precision']})  {_how(item)}"
        )
    return "\n".join(lines)


def _describe(store: Store, run_id: str, current: Current | None) -> dict[str, Any] | None:
    run = StoredRun.open(store, run_id)
    if run is None:
        return None
    summary = read_summary(store, run_id) or {}
    is_current = current is not None and current.run_id == run_id
    published_at = _published_at(run_id, current)
    if not published_at and summary.get("state") not in _FINISHED:
        return None
    return {
        "run_id": run_id,
        "state": RunState.COMPLETE.value if published_at else summary["state"],
        "current": is_current,
        "published": bool(published_at or summary.get("published")),
        "published_at": published_at,
        "created": run.record.created,
        "rows": current.rows if current and is_current else summary.get("rows", run.record.rows or 0),
        "documents": summary.get("documents"),
        "quarantined_rows": summary.get("quarantined_rows"),
        "bytes": _bytes(run, summary),
        "model": run.model,
        "forced": (current.forced if current and is_current else None) or summary.get("forced"),
        "taken_back": current is not None and run_id in current.taken_back,
        "reasons": [] if is_current else summary.get("reasons", []),
        "data": redact(store.uri_of(RunPaths(run_id).data)),
    }


def _published_at(run_id: str, current: Current | None) -> str | None:
    """When the run was last published; None: it was not."""
    if current is None or current.run_id == run_id:
        return current.published_at if current else None
    return next((item.published_at for item in current.history if item.run_id == run_id), None)


def _bytes(run: StoredRun, summary: dict[str, Any]) -> int:
    size = summary.get("output_bytes")
    return int(size) if size is not None else sum(run.store.list(run.paths.data).values())


def _how(item: dict[str, Any]) -> str:
    if item["published"]:
        when = f"published {item['published_at'] or 'once'}"
        by = f" by force of {item['forced']['by']}" if item["forced"] else ""
        held = f", kept for {', '.join(item['consumers'])}" if item["consumers"] else ""
        return when + by + (", taken back" if item["taken_back"] else "") + held
    return f"not published: {item['reasons'][0] if item['reasons'] else item['state']}"


def _size(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} {_UNITS[-1]}"

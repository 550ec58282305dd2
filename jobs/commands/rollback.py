"""`reembed rollback`: makes an earlier snapshot the current one again, in one put. It can be undone in the same way.

The replaced run is recorded as taken back, so that `embed` does not publish it again by itself. Nothing is copied, embedded
or deleted.
"""

from __future__ import annotations

from typing import Any

from jobs.publish.open_snapshot import open_store
from jobs.publish.republish import Republication, driver_lock
from jobs.state.current import Current, published_runs, read_current
from jobs.state.records import list_runs
from workers.errors import UsageError
from workers.storage.store import Store

_NAMED = 10  # snapshots that an error names


def roll_back(target: str, run_id: str) -> dict[str, Any]:
    """Make a formerly published snapshot the current one again.

    Raises:
        UsageError: it was never published, is not complete, or parts of it are missing; nothing was changed.
        LockHeld: a driver works on the output.
    """
    store, _ = open_store(target)
    _refuse_unpublished(store, read_current(store), run_id)
    with driver_lock(store) as lock:
        before = read_current(store)
        _refuse_unpublished(store, before, run_id)  # retention may have deleted it meanwhile
        republication = Republication.of(store, run_id)
        if before is not None and before.run_id == run_id:
            now = before
            republication.correct(lock, before)
        else:
            now = republication.flip(lock)
    return {
        "run_id": run_id,
        "left": before.run_id if before else None,
        "changed": now is not before,
        "published_at": now.published_at,
        "taken_back": list(now.taken_back),
        "rows": now.rows,
        "data": now.data,
    }


def rollback_text(report: dict[str, Any]) -> str:
    if not report["changed"]:
        return f"{report['run_id']} is the current snapshot already; nothing was changed"
    return (
        f"readers have {report['run_id']} again: {report['rows']:,} rows in {report['data']}\n"
        f"{report['left']} is kept, and `embed` does not publish it again by itself; `reembed rollback` to it undoes this"
    )


def _refuse_unpublished(store: Store, current: Current | None, run_id: str) -> None:
    published = published_runs(store, current, list_runs(store))
    if run_id not in published:
        raise UsageError(
            f"{store.uri}: {run_id} is no snapshot that was published and is still kept; "
            f"known: {', '.join(reversed(published[-_NAMED:])) or 'none'}; a refused run needs `reembed publish --force`"
        )

"""`reembed publish`: publishes a finished run that was refused or taken back.

Without --force it only lists the reasons against the run. With --force it publishes the run, and CURRENT.json and the run's
summary record who did it, when, and against which reasons. All rows must still be accounted for, and all parts must exist.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.driver.process_identity import Identity
from jobs.publish.open_snapshot import open_store
from jobs.publish.republish import Republication, driver_lock
from jobs.state.current import Current, published_runs, read_current
from jobs.state.records import UNFINISHED, list_runs, read_run
from workers.errors import UsageError

_NAMED = 10  # runs that an error names


def publish_run(target: str, run_id: str, *, force: bool) -> dict[str, Any]:
    """Publish a run that was refused. Without `force` nothing is published if there are reasons against it.

    Raises:
        UsageError: no such run, not finished, or parts of it are missing; nothing was changed.
        LockHeld: a driver works on the output.
    """
    store, _ = open_store(target)
    if read_run(store, run_id) is None:
        raise UsageError(f"{store.uri}: no run {run_id} there; known: {', '.join(list_runs(store)[-_NAMED:]) or 'none'}")
    if not force:
        current = read_current(store)
        return _report(run_id, current, _reasons(Republication.of(store, run_id), current), changed=False)
    with driver_lock(store) as lock:
        before = read_current(store)
        republication = Republication.of(store, run_id)
        if before is not None and before.run_id == run_id:
            republication.correct(lock, before)
            return _report(run_id, before, [], changed=False)
        who = Identity.mine()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        forced = {"by": f"{who.user}@{who.host}", "at": at, "reasons": _reasons(republication, before)}
        now = republication.flip(lock, forced)
    return _report(run_id, now, [], changed=True)


def publish_text(report: dict[str, Any]) -> str:
    if report["published"]:
        return f"run {report['run_id']}: {'published by force' if report['changed'] else 'is the current snapshot already'}"
    lines = [f"run {report['run_id']}: NOT published; `reembed publish --force` overrides"]
    return "\n".join(lines + [f"  reason      {reason}" for reason in report["reasons"]])


def _reasons(republication: Republication, current: Current | None) -> list[str]:
    """The reasons against publishing. Raises: UsageError: the run was published before, or is not finished."""
    run_id, store, summary = republication.run.run_id, republication.run.store, republication.summary
    state = summary.get("state")
    if current is not None and run_id == current.run_id:
        return []
    taken = current is not None and run_id in current.taken_back
    reasons = [str(reason) for reason in summary.get("reasons", [])]
    if taken:
        return reasons or ["taken back by `reembed rollback`"]
    if state is None or state in UNFINISHED:
        raise UsageError(
            f"{store.uri}: {run_id} was not finished, so nothing was checked yet; run `reembed embed` with its configuration"
        )
    if run_id in published_runs(store, current, [run_id]):
        raise UsageError(f"{store.uri}: {run_id} was published before; use `reembed rollback` to give it to readers again")
    return reasons


def _report(run_id: str, current: Current | None, reasons: list[str], *, changed: bool) -> dict[str, Any]:
    published = current if current is not None and current.run_id == run_id else None
    return {
        "run_id": run_id,
        "published": published is not None,
        "changed": changed,
        "reasons": reasons,
        "forced": published.forced if published else None,
        "data": published.data if published else None,
    }

"""`reembed changes`: what a loader must delete, upsert and patch between two kept snapshots; and how far each loader got.

    find_changes   counts and, with --into, files; with --consumer from what that consumer has acknowledged
    acknowledge    --ack: the consumer has applied the set that it was given
    forget         --forget: the consumer is no more, and no snapshot is kept for it

Until a consumer acknowledges, it is given the very same set again, so that one that was killed half-way applies it once
more, never a later one to a store of which nobody knows the state. Embeds nothing and changes no snapshot.
"""

from __future__ import annotations

from typing import Any

from jobs.publish.change_sets import ChangeSet, Folder, compare_runs, stored_changes
from jobs.publish.consumers import Consumer, Consumers
from jobs.publish.open_snapshot import open_store
from jobs.publish.republish import driver_lock
from jobs.state.current import published_runs, read_current
from jobs.state.records import list_runs
from jobs.state.stored_run import StoredRun
from workers.errors import ObjectError, UsageError
from workers.storage.store import Store
from workers.storage.uris import redact

NONE = "none"  # --from: everything is added
_NAMED = 10  # snapshots that an error names


def find_changes(
    target: str,
    from_run: str | None = None,
    to_run: str | None = None,
    into: str | None = None,
    consumer: str | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Compare two snapshots. `from_run`: by default what the consumer has, else the snapshot before `to_run`.

    `whole`: parts that both have are read as well, for ids that occur twice.

    Raises:
        UsageError: no such snapshot, they cannot be compared, or a part is gone; nothing was written but what was complete.
        RunAborted: a document is damaged. TransientError.
    """
    store, config = open_store(target)
    current = read_current(store)
    if current is None:
        raise UsageError(f"{redact(store.uri)}: nothing is published there; run `reembed embed` first, or correct the uri")
    consumers, known = Consumers(store), None
    if consumer is not None:
        known = consumers.read(consumer) or Consumer(consumer)
        from_run, to_run = _asked(known, from_run, to_run)
    published = published_runs(store, current, list_runs(store))
    new = _open(store, to_run or current.run_id, published, "--to")
    old_id = from_run or _before(new.run_id, published, redact(store.uri))
    old = (
        None if old_id == NONE else _open(store, old_id, published, "--from" if known is None else f"--consumer {consumer}")
    )
    folder = None if into is None else _folder(store, into, config.output.storage_options if config else {}, old, new)
    stored = stored_changes(old, new) if into is None and not whole else None
    moves = old is None or old.run_id != new.run_id
    if known is not None and moves and (folder is not None or stored is not None):
        known = consumers.hand(known.name, new.run_id)
    return _found(old, new, folder, stored, whole).report() | _of(known)


def acknowledge(target: str, consumer: str, run_id: str) -> dict[str, Any]:
    """The consumer has this snapshot now. Idempotent.

    Raises:
        UsageError: another set was given out, or no such snapshot is kept. LockHeld: a driver works on the output, and the
        consumer is new: what it is said to have might be deleted at this moment.
    """
    store, _ = open_store(target)
    consumers = Consumers(store)
    if consumers.read(consumer) is not None:
        return _of(consumers.acknowledge(consumer, run_id))
    with driver_lock(store):
        current = read_current(store)
        _open(store, run_id, published_runs(store, current, list_runs(store)), "--ack")
        return _of(consumers.acknowledge(consumer, run_id))


def forget(target: str, consumer: str) -> dict[str, Any]:
    """Nothing is kept for the consumer any more. Raises: UsageError: there is none of that name."""
    store, _ = open_store(target)
    known = Consumers(store).forget(consumer)
    if known is None:
        names = ", ".join(each.name for each in Consumers(store).all()) or "none"
        raise UsageError(f"--consumer {consumer}: {redact(store.uri)} knows no such consumer; known: {names}")
    return _of(known) | {"forgotten": True}


def changes_text(report: dict[str, Any]) -> str:
    """For people: counts, files, and what to do next."""
    if "from" not in report:
        has = f"consumer {report['consumer']}: has {report['acknowledged'] or 'nothing'}"
        given = f", was given {report['handed']}" if report["handed"] else ""
        return f"{has}{given}{'; it is forgotten' if report.get('forgotten') else ''}"
    lines = [f"{report['from'] or 'nothing'} -> {report['to']} ({report['rows']:,} rows)"]
    lines += [f"  {name:<8} {report[name]:>13,}" for name in ("added", "changed", "patched", "deleted")]
    if report["shared_keys"]:
        lines.append(f"  {report['shared_keys']:,} ids occur more than once: their rows are replaced together")
    lines += [f"  {uri}" for uri in report["files"]]
    if report.get("handed"):
        lines.append(f"  then: --consumer {report['consumer']} --ack {report['to']}")
    return "\n".join(lines)


def _asked(known: Consumer, from_run: str | None, to_run: str | None) -> tuple[str, str | None]:
    """Both ends for a consumer. Raises: UsageError: other ones are asked for."""
    if from_run is not None:
        raise UsageError(f"--from {from_run}: with --consumer a set begins at what the consumer has; leave --from out")
    if to_run is not None and known.handed is not None and to_run != known.handed:
        raise UsageError(
            f"--to {to_run}: consumer {known.name} was given {known.handed} and has not acknowledged it; apply that set, "
            f"then --ack {known.handed}"
        )
    return known.acknowledged or NONE, known.handed or to_run


def _found(old: StoredRun | None, new: StoredRun, folder: Folder | None, stored: ChangeSet | None, whole: bool) -> ChangeSet:
    try:
        return stored or compare_runs(old, new, folder, whole=whole)
    except ObjectError as error:
        raise UsageError(f"{error}; `reembed verify` tells more of a current snapshot") from None


def _open(store: Store, run_id: str, published: list[str], option: str) -> StoredRun:
    run = StoredRun.open(store, run_id) if run_id in published else None
    if run is None:
        mend = "; its store must be loaded anew: --forget, then --from none" if option.startswith("--consumer") else ""
        raise UsageError(
            f"{option}: {run_id} is no snapshot that was published and is still kept; "
            f"known: {', '.join(reversed(published[-_NAMED:])) or 'none'}{mend}"
        )
    if run.job not in (None, "reduce"):
        raise UsageError(f"{redact(store.uri)}: the output of `reembed {run.job}`, which holds no vectors")
    return run


def _before(run_id: str, published: list[str], uri: str) -> str:
    """The snapshot that readers had before this one."""
    at = published.index(run_id) if run_id in published else 0
    if not at:
        raise UsageError(
            f"{uri}: no snapshot before {run_id} is kept; name one (--from RUN_ID), or --from none for all rows"
        )
    return published[at - 1]


def _folder(store: Store, into: str, options: dict[str, Any], old: StoredRun | None, new: StoredRun) -> Folder:
    """A folder of its own for each set. Raises: UsageError: inside the output."""
    target = Store(into, options)
    if f"{target.uri}/".startswith(f"{store.uri}/"):
        raise UsageError(f"--into {redact(into)}: lies in the output itself; give another folder")
    return Folder(target, f"{old.run_id if old is not None else NONE}_{new.run_id}")


def _of(consumer: Consumer | None) -> dict[str, Any]:
    if consumer is None:
        return {}
    return {"consumer": consumer.name, "acknowledged": consumer.acknowledged, "handed": consumer.handed}

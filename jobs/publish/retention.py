"""Retention: after a new snapshot is published, the oldest beyond `output.keep_snapshots` are deleted.

1. choose    kept are the current snapshot, those that readers had last before it, and those that a consumer of change sets
             has. Deleted are all other published runs, and every unpublished run older than what readers had last: refused
             runs, and interrupted runs that nobody resumed
2. delete    run.json first, after which the run no longer exists; then its state, then its data. summary.json and
             report.html stay as history
3. finish    remains of a run whose deletion was killed half-way: data or a manifest without run.json

A run later than the current one is deleted only if it was published, so an interrupted run can be resumed. A driver that
lost the lock deletes nothing more. A failure is logged and the next retention tries again; it does not change the outcome of
the run that was just published.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.publish.consumers import held_runs
from jobs.state.current import published_runs, read_current
from jobs.state.records import list_runs, run_folders
from workers.errors import ReembedError, TransientError, UsageError
from workers.storage.store import DELETE_BATCH, Store
from workers.table.paths import DATA, RunPaths

log = logging.getLogger("reembed")

_DELETERS = 8  # batches at once
_LOOKERS = 16


def retain(store: Store, lock: DriverLock, keep: int, stop: StopFlag) -> list[str]:
    """Delete all but the `keep` (>= 1) latest snapshots; returns the ids of the deleted runs, oldest first. Never raises.

    A signal, or the loss of the lock, ends it between two batches.
    """
    deleted: list[str] = []
    try:
        for run_id in _superfluous(store, keep):
            lock.check()
            stop.check()
            if run_id in held_runs(store):
                continue  # a consumer has taken it since
            if delete_run(store, run_id, lock, stop):
                deleted.append(run_id)
    except ReembedError as error:
        log.warning("old snapshots were not all deleted; the next run goes on with it: %s", error)
    if deleted:
        log.info("output.keep_snapshots=%d: deleted %s", keep, ", ".join(deleted))
    return deleted


def delete_run(store: Store, run_id: str, lock: DriverLock, stop: StopFlag, *, history: bool = True) -> bool:
    """Delete a run and its data; `history`: summary.json and report.html stay.

    Returns whether it was deleted completely; errors of the store are logged. Raises: RunAborted.
    """
    paths = RunPaths(run_id)
    try:
        store.delete(paths.record)
        # the data last: by its folder the next retention finds a run that was deleted in part
        for folder in (paths.root, paths.data):
            _empty(store, folder, paths.history if history else (), lock, stop)
    except (UsageError, TransientError) as error:
        log.warning("old run %s was not deleted, or only in part; the next run tries again: %s", run_id, error)
        return False
    return True


def beyond(
    begun: Collection[str],
    published: Sequence[str],
    leftovers: Collection[str],
    current: str,
    keep: int,
    held: Collection[str] = (),
) -> list[str]:
    """Which runs to delete, oldest first. Pure.

    Args:
        begun: runs that have a run.json.
        published: those of them that readers had at some time, the latest last, `current` among them.
        leftovers: runs without run.json of which other files remain.
        held: runs that consumers of change sets have; they do not make other runs stay.
    """
    kept = {current, *published[-keep:]}
    oldest = min(kept)
    gone = {run_id for run_id in begun if run_id not in kept and (run_id in published or run_id < oldest)}
    return sorted((gone - set(held)) | {run_id for run_id in leftovers if run_id < current})


def _superfluous(store: Store, keep: int) -> list[str]:
    current = read_current(store)
    if current is None:
        return []
    begun = list_runs(store)
    rest = sorted(set(run_folders(store)) - set(begun))
    with ThreadPoolExecutor(_LOOKERS) as pool:
        planned = pool.map(lambda run_id: store.exists(RunPaths(run_id).manifest), rest)
        leftovers = {run_id for run_id, found in zip(rest, planned, strict=True) if found}
    leftovers |= set(run_folders(store, DATA)) - set(begun)
    if current.run_id not in begun:
        return []  # an unexpected state: delete nothing
    published, held = published_runs(store, current, begun), held_runs(store)
    chosen = beyond(begun, published, leftovers, current.run_id, keep)
    for run_id in sorted(held.keys() & set(chosen)):
        log.warning("snapshot %s stays beyond output.keep_snapshots: consumer %s has it", run_id, ", ".join(held[run_id]))
    return beyond(begun, published, leftovers, current.run_id, keep, held)


def _empty(store: Store, folder: str, keep: Collection[str], lock: DriverLock, stop: StopFlag) -> None:
    """Delete all files below a folder except those in `keep`."""
    paths = [path for path in store.list(folder) if path not in keep]

    def remove(batch: Sequence[str]) -> None:
        lock.guard()
        stop.check()
        store.delete_many(batch)

    with ThreadPoolExecutor(_DELETERS) as pool:
        list(pool.map(remove, _batches(paths)))
    store.prune(folder)


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(paths), DELETE_BATCH):
        yield paths[at : at + DELETE_BATCH]

"""Publishing an ended run by hand: the common part of `rollback` and `publish`.

1. open     run.json, manifest, receipts, summary; refused unless every row of the manifest is embedded or quarantined
2. check    every part that a receipt lists exists with its size                                    (publish.py)
3. flip     one put of CURRENT.json, with the facts of that run; a table that follows it takes the files of that run
4. record   the run's summary says that it is published, and the data set card is of it

If killed between 3 and 4, CURRENT.json is right and the summary, or the table, is not; the same command corrects it.
Reads no row; with a table, the footers of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.driver.lock import DriverLock
from jobs.publish.card import put_card
from jobs.publish.publish import Snapshot, publish
from jobs.publish.tables.follow import following, present_table, settle
from jobs.state.accounting import Accounting, account
from jobs.state.current import Current, published_by_hand, read_current
from jobs.state.records import read_summary, write_summary
from jobs.state.stored_run import StoredRun
from workers.errors import RunAborted, UsageError
from workers.storage.atomicity import probe_atomic_create
from workers.storage.store import Store
from workers.table.paths import CURRENT, PROBES, RunPaths


@dataclass(frozen=True, slots=True)
class Republication:
    """A complete run that may be published again: its rows are accounted for."""

    run: StoredRun
    summary: dict[str, Any]  # empty if the driver was killed right after publishing
    accounting: Accounting

    @classmethod
    def of(cls, store: Store, run_id: str) -> Republication:
        """Raises: UsageError: there is no such run, or it is not complete; the message names what is missing."""
        root = store.uri_of(RunPaths(run_id).root)
        run = StoredRun.open(store, run_id)
        if run is None:
            raise UsageError(f"{root}: no such run; `reembed snapshots` lists those that are there")
        summary = read_summary(store, run_id) or {}
        given_up = [int(number) for number in summary.get("quarantined_shards", {})]
        try:
            accounting = account(run.shards, run.receipts, given_up)
        except (RunAborted, FileNotFoundError) as error:
            why = str(error).partition(";")[0] if isinstance(error, RunAborted) else "its manifest is gone"
            raise UsageError(
                f"{root}: not complete, so it cannot be published: {why}; `reembed embed` with its configuration resumes it"
            ) from None
        return cls(run, summary, accounting)

    def flip(self, lock: DriverLock, forced: Mapping[str, Any] | None = None) -> Current:
        """Make the run the current snapshot; returns the new CURRENT.json.

        `forced`: who overrides what; without it an earlier override of this run stays.

        Raises:
            UsageError: a part is gone or altered; nothing was changed. RunAborted: the lock is lost. TransientError.
        """
        run, forced = self.run, forced or self.summary.get("forced")
        facts = self.summary.get("facts", {}) | run.facts() | {"documents": self.accounting.documents}
        table = following(run, present_table(run.store))
        snapshot = Snapshot(run.store, run.run_id, run.files, facts)
        damaged = publish(snapshot, lock, by_hand=True, forced=forced, table=table)
        current = read_current(run.store)
        if damaged is not None or current is None:
            gone = damaged.files if damaged else (CURRENT,)
            raise UsageError(
                f"{run.store.uri_of(gone[0])}: missing or altered ({len(gone)} files in all); nothing was changed; "
                "`reembed embed` with its configuration and corpus embeds them again"
            )
        self._mark_published(forced)
        put_card(run, lock.guard)
        return current

    def correct(self, lock: DriverLock, current: Current) -> None:
        """What a flip left that was killed after CURRENT.json named the run. Idempotent. Raises: as flip()."""
        self._mark_published(current.forced)
        settle(self.run.store, lock, present_table(self.run.store))

    def _mark_published(self, forced: Mapping[str, Any] | None) -> None:
        """Record in the run's summary that it is published."""
        marked = self.summary | published_by_hand(forced)
        if self.summary and marked != self.summary:
            write_summary(self.run.store, self.run.run_id, marked)


@contextmanager
def driver_lock(store: Store) -> Iterator[DriverLock]:
    """Take the driver lock, as `embed` does, for replacing CURRENT.json. Raises: LockHeld."""
    lock = DriverLock(store)
    lock.refuse_if_held()
    probe_atomic_create(store, PROBES)
    with lock:
        yield lock

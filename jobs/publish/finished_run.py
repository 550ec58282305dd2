"""A run that ended, opened whole: what rollback and `publish` may put before readers, and how they do it.

1. open     run.json, manifest, receipts, summary; every row of the manifest is embedded or quarantined, else it is refused
2. check    every part that a receipt lists stands with its size      (jobs/publish/publish.py)
3. flip     one put of CURRENT.json, with the facts of that run
4. say      the run's summary tells that it is published

Killed between 3 and 4, CURRENT.json is right and the summary is late: the same command again mends it. Reads no part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.driver.claims import probe_atomic_create
from jobs.driver.lock import DriverLock
from jobs.publish.publish import CURRENT, Current, publish, published_by_hand, read_current
from jobs.state.ledger import Accounting, Ledger, load_receipts
from jobs.state.manifest import load_manifest
from jobs.state.receipts import Files
from jobs.state.records import RunPaths, RunRecord, read_run, read_summary, write_summary
from workers.errors import RunAborted, UsageError
from workers.records.shard import Receipt
from workers.storage.objects import Store

log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """Complete: its rows are accounted for."""

    store: Store
    record: RunRecord
    summary: dict[str, Any]  # empty when the driver was killed right after it had published
    receipts: Mapping[int, Receipt]
    accounting: Accounting

    @classmethod
    def open(cls, store: Store, run_id: str) -> FinishedRun:
        """Raises: UsageError: there is no such run, or it is not complete; names what is missing."""
        paths = RunPaths(run_id)
        record = read_run(store, run_id)
        if record is None:
            raise UsageError(f"{store.uri_of(paths.root)}: no such run; `reembed snapshots` lists those that are there")
        summary = read_summary(store, run_id) or {}
        given_up = [int(number) for number in summary.get("quarantined_shards", {})]
        try:
            shards, _ = load_manifest(store, paths.manifest, record.fingerprint)
            receipts = load_receipts(store, run_id)
            accounting = Ledger.account(shards, receipts, given_up)
        except (RunAborted, FileNotFoundError) as error:
            why = str(error).partition(";")[0] if isinstance(error, RunAborted) else "its manifest is gone"
            raise UsageError(
                f"{store.uri_of(paths.root)}: not complete, so it cannot be published: {why}; "
                "`reembed embed` with its configuration resumes it"
            ) from None
        return cls(store, record, summary, receipts, accounting)

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def make_current(self, lock: DriverLock, forced: Mapping[str, Any] | None = None) -> Current:
        """Put it before the readers; returns CURRENT.json as it is then.

        `forced`: who overrides what; without it an earlier override of this run holds on.

        Raises:
            UsageError: a part is gone or altered; nothing was changed. RunAborted: the lock is lost. TransientError.
        """
        forced = forced or self.summary.get("forced")
        facts = self.record.facts() | {"documents": self.accounting.documents}
        damaged = publish(self.store, self.run_id, Files(self.receipts), facts, lock, by_hand=True, forced=forced)
        current = read_current(self.store)
        if damaged is not None or current is None:
            gone = damaged.files if damaged else (CURRENT,)
            raise UsageError(
                f"{self.store.uri_of(gone[0])}: missing or altered ({len(gone)} files in all); nothing was changed; "
                "`reembed embed` with its configuration and corpus embeds them again"
            )
        self.settle(forced)
        return current

    def settle(self, forced: Mapping[str, Any] | None) -> None:
        """Let the summary say that it is published."""
        told = self.summary | published_by_hand(forced)
        if self.summary and told != self.summary:
            write_summary(self.store, self.run_id, told)


@contextmanager
def driver_lock(store: Store) -> Iterator[DriverLock]:
    """The right to flip CURRENT.json, taken as `embed` takes it. Raises: LockHeld."""
    lock = DriverLock(store)
    lock.refuse_if_held()
    probe_atomic_create(store)
    with lock:
        yield lock

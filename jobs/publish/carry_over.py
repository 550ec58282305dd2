"""Carrying over: parts and receipts of unchanged shards are copied from the base, before any replica is started.

1. check    the base's receipts, and one listing of its folder: a shard with missing parts, or of another size, stays pending
2. copy     inside the store (Store.copy), shards on threads: parts, then the quarantine file
3. commit   the receipt, derived from the base's, last. If killed before it, the shard is copied again to the same names

Pending shards are embedded from their source like all others. Parts keep their footers. The driver reads no byte of the
parts and opens no object of the corpus.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from typing import Protocol

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.state.ledger import Ledger, load_receipts
from jobs.state.receipts import Receipts
from workers.errors import RunAborted
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.store import Store
from workers.table.part_file import path_in_run
from workers.table.paths import RunPaths

THREADS = 32  # copies are bound by latency
MOST_WAITING = 4 * THREADS  # submitted to the threads at a time, however many shards there are
WAKE_SECONDS = 0.25  # how soon a signal or a lost lock is noticed
LOG_SECONDS = 10.0
log = logging.getLogger("reembed")


class Driver(Protocol):
    """What copying needs of its driver."""

    @property
    def lock(self) -> DriverLock: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def stop(self) -> StopFlag: ...


def carry_over(store: Store, run_id: str, base: str, shards: Sequence[Shard], driver: Driver) -> Receipts:
    """Carry `shards` (of run `run_id`, none with a receipt, all with `carried`) over from run `base`.

    Returns:
        Receipts of the carried shards; the others stay pending.
    Raises:
        RunAborted: the lock is lost, or a signal came (Stopped); committed shards stay. UsageError, TransientError.
    """
    began = logged = time.monotonic()
    receipts, sizes = _stored(store, base)
    carrier = _Carrier(store, run_id, base, driver)
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="carry")
    carried, rows, begun = Receipts(), 0, 0
    waiting: set[Future[Receipt | None]] = set()
    todo = ((shard, receipt) for shard in shards if (receipt := _carriable(shard, receipts, sizes)) is not None)
    try:
        while True:
            for item in islice(todo, MOST_WAITING - len(waiting)):
                waiting.add(pool.submit(carrier.carry, *item))
                begun += 1
            if not waiting:
                break
            driver.stop.check()
            driver.lock.raise_if_lost()
            done, waiting = wait(waiting, WAKE_SECONDS, FIRST_COMPLETED)
            for future in done:
                if (receipt := future.result()) is not None:
                    carried.add(receipt)
                    rows += receipt.rows
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log.info("carrying over snapshot %s: %d of %d shards", base, len(carried), len(shards))
    finally:
        carrier.halt.set()
        pool.shutdown(wait=True, cancel_futures=True)
    if begun < len(shards):
        log.warning("parts of %d shards are gone from snapshot %s: these are embedded", len(shards) - begun, base)
    if carried:
        seconds = time.monotonic() - began
        log.info("carried over %d shards, %d rows, of snapshot %s in %.1f s", len(carried), rows, base, seconds)
    return carried


def whole_shards(store: Store, base: str) -> frozenset[int]:
    """Shards of run `base` of which every file is there, of the size in its receipt."""
    receipts, sizes = _stored(store, base)
    there = (number for number, receipt in receipts.items() if _there(receipt, sizes))
    return frozenset(there)


def _stored(store: Store, base: str) -> tuple[Mapping[int, Receipt], Mapping[str, int]]:
    """The base's receipts, and its files with their sizes; both empty if the receipts are damaged."""
    try:
        receipts = load_receipts(store, base)
    except RunAborted as error:  # everything is then embedded, which needs nothing of the base
        log.warning("snapshot %s: %s", base, error)
        return {}, {}
    paths = RunPaths(base)
    return receipts, store.list(paths.data) | store.list(paths.quarantine)


def _carriable(shard: Shard, receipts: Mapping[int, Receipt], sizes: Mapping[str, int]) -> Receipt | None:
    receipt = receipts.get(-1 if shard.carried is None else shard.carried)
    if receipt is None or (shard.rows is not None and shard.rows != receipt.rows_read):
        return None
    return receipt if _there(receipt, sizes) else None


def _there(receipt: Receipt, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(file.path) == file.bytes for file in _files(receipt))


def _files(receipt: Receipt) -> list[OutputFile]:
    return [*receipt.files, *([receipt.quarantine] if receipt.quarantine else [])]


class _Carrier:
    """Carries shards over; called from many threads. `halt` stops it between two files."""

    def __init__(self, store: Store, run_id: str, base: str, driver: Driver) -> None:
        self._store, self._run_id, self._base, self._driver = store, run_id, base, driver
        self.halt = threading.Event()

    def carry(self, shard: Shard, receipt: Receipt) -> Receipt | None:
        """Copy and commit; None: a part is gone, or the driver is stopping."""
        began = time.monotonic()
        paths: dict[str, str] = {}
        for file in _files(receipt):
            source, target = file.path, _path(file.path, self._base, self._run_id, receipt.shard, shard)
            if target is None:
                log.warning("%s: named in a receipt it does not belong to; shard %d is embedded", source, shard.number)
                return None
            paths[source] = target
        for source, target in paths.items():
            if self.halt.is_set():
                return None
            self._driver.lock.guard()
            try:
                self._store.copy(source, target)
            except FileNotFoundError:
                log.warning("%s: gone; shard %d is embedded", self._store.uri_of(source), shard.number)
                return None
        return self._driver.ledger.record(carried_receipt(receipt, shard, self._base, paths, time.monotonic() - began))


def carried_receipt(receipt: Receipt, shard: Shard, base: str, paths: Mapping[str, str], seconds: float) -> Receipt:
    """The receipt of `shard`, from that of the base: the figures of its rows are kept, those of the work are reset.

    `paths`: file of the base -> its copy. The epoch is kept, because the footers of the parts hold it.
    """
    quarantine = receipt.quarantine
    return replace(
        receipt,
        shard=shard.number,
        files=tuple(replace(file, path=paths[file.path]) for file in receipt.files),
        quarantine=replace(quarantine, path=paths[quarantine.path]) if quarantine else None,
        carried_from=base,
        reused_rows=receipt.rows,
        repeated_rows=0,
        tokens=0,
        padded_tokens=0,
        stage_seconds={},
        seconds=round(seconds, 4),
        replica="driver",
        adopted=False,
        ended=round(time.time(), 3),
        probed=0,
        probe_cosine=None,
    )


def _path(path: str, base: str, run_id: str, number: int, shard: Shard) -> str | None:
    """The same file of the new run. None: it is not a file of the base's shard `number`."""
    if path == RunPaths(base).quarantined_rows(number):
        return RunPaths(run_id).quarantined_rows(shard.number)
    return path_in_run(path, base, number, run_id, shard.number)

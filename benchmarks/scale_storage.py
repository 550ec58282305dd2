"""The cost of a million receipts on real storage: writing them, loading them, and resuming a killed run.

    write     through jobs.state.ledger, as the driver does: one object a receipt, and the log
    load      in a fresh process: listed, and read from the log; and for fewer receipts one by one, as without the log
    resume    in a fresh process: the job itself, from its start to its first dispatch

Each step runs in a process of its own, whose memory is measured.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.agenda import Agenda
from benchmarks.scale_replicas import FakeReplicas, make_receipt
from benchmarks.scale_run import ROWS, RUN_ID, CountingStore, held_lock, make_request, make_run, simulated
from benchmarks.scale_weather import SCENARIOS
from jobs.driver.signals import StopFlag
from jobs.embed import job as job_module
from jobs.planning.choose_run import find_resumable
from jobs.scheduling.messages import Command, Dispatch
from jobs.state.accounting import totals
from jobs.state.ledger import Ledger, load_receipts
from workers.errors import RunAborted
from workers.records.shard import OutputFile
from workers.table.paths import RunPaths

PART = OutputFile(f"{RunPaths(RUN_ID).data}/lang=de", ROWS, 27_000_000, "", "")


def measured(work: Callable[[CountingStore], dict[str, Any]], uri: str, items: int) -> dict[str, Any]:
    """The result of `work`, and its cost, in all and per item."""
    store = CountingStore(uri)
    before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    told = work(store)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return told | {
        "items": items,
        "wall_seconds": round(wall, 2),
        "user_cpu_seconds": round(user, 2),
        "system_cpu_seconds": round(system, 2),
        "cpu_us_an_item": round((user + system) / max(1, items) * 1e6, 1),
        "peak_rss_bytes": after.ru_maxrss * 1024,
        "rss_before_bytes": before.ru_maxrss * 1024,
        "requests": dict(sorted(store.requests.items())),
    }


def begin(uri: str, shards: int) -> dict[str, Any]:
    """Begin a run of that many shards: store manifest and run.json."""
    return measured(lambda store: {"rows": len(make_run(store, shards, 1000).shards)}, uri, shards)


def write(uri: str, count: int, seed: int, segment: int | None = None, synced: bool = True) -> dict[str, Any]:
    """Receipts of the first so many shards; `segment`: how many go into one file of the log, where not as usual.

    `synced=False`: a local disk is not waited for, where only what is done with the receipts afterwards is measured.
    """

    def work(store: CountingStore) -> dict[str, Any]:
        draw = random.Random(seed)
        with Ledger(store, RUN_ID, segment=segment) as ledger:  # of a driver before any whose lock is taken here
            for number in range(count):
                replica, ended = f"replica-{number % 1000}", 1.79e9 + 0.06 * number
                ledger.record_async(make_receipt(number, 1 << 32 | number, PART, 60.0, replica, ended, draw))
            ledger.drain()
        return {}

    with contextlib.nullcontext() if synced else mock.patch.object(os, "fsync", _at_once):
        return measured(work, uri, count)


def _at_once(_descriptor: int) -> None:
    """Replaces os.fsync. A mock would keep two million calls."""


def load(uri: str, expected: int) -> dict[str, Any]:
    """Load all receipts, as a reader of the run does, and sum them."""

    def work(store: CountingStore) -> dict[str, Any]:
        began = time.perf_counter()
        receipts = load_receipts(store, RUN_ID)
        loaded = time.perf_counter() - began
        sums = totals(receipts)
        if (sums.shards, sums.documents) != (expected, expected * ROWS):
            raise SystemExit(f"{sums.shards} receipts and {sums.documents} documents came back of {expected}")
        return {"load_seconds": round(loaded, 2), "sum_seconds": round(time.perf_counter() - began - loaded, 2)}

    return measured(work, uri, expected)


class _Reached(BaseException):
    """Raised at the first dispatch; the job does not catch it."""


class _FirstDispatch(FakeReplicas):
    def execute(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            raise _Reached
        super().execute(command)


def resume(uri: str, shards: int, done: int, asked: float) -> dict[str, Any]:
    """`asked`: Unix seconds at which the process was requested, so that its start and imports count."""

    def work(store: CountingStore) -> dict[str, Any]:
        imported = time.time() - asked
        agenda = Agenda()
        pool = _FirstDispatch(agenda, SCENARIOS["quiet"], 1, 60.0, PART, bytearray(shards))
        run = find_resumable(make_request(store, 1000))
        if run is None:
            raise RunAborted(f"{uri}: no run there to resume")
        opened = time.time() - asked
        loads: list[float] = []
        load = Ledger.load

        def timed(ledger: Ledger) -> Any:
            began = time.perf_counter()
            try:
                return load(ledger)
            finally:
                loads.append(time.perf_counter() - began)

        try:
            with simulated(pool, agenda), mock.patch.object(Ledger, "load", timed), held_lock(store) as lock:
                job_module._work(run, lock, StopFlag())
        except _Reached:
            first = time.time() - asked
        else:
            raise SystemExit("nothing was left to do")
        return {
            "done": done,
            "imported_seconds": round(imported, 2),
            "opened_seconds": round(opened - imported, 2),
            "ledger_seconds": [round(seconds, 2) for seconds in loads],
            "first_dispatch_seconds": round(first, 2),
        }

    return measured(work, uri, shards)

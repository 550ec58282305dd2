"""A job over a snapshot from its beginning to its end: passes -> parts -> checks -> publication. `run_job(kind) -> summary`.

1. open      the source's published snapshot; what can be refused is refused, and nothing is written
2. choose    resume an unfinished run of the same settings and snapshot, or begin one                  (derived_run.py)
3. program   the job's passes; what the journal has is not computed again                              (passes.py)
4. carry     parts whose source parts are unchanged are copied, if the state is last night's
5. write     the last pass: a receipt for each shard
6. publish   unless a check failed: tables, state, then CURRENT.json; old outputs are deleted

A snapshot of less than SMALL_BYTES is worked on by threads of this process, unless a cluster is named: starting Ray would
take longer than the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from jobs.driver.layout import require_lasting
from jobs.driver.lock import DriverLock
from jobs.driver.preflight import RAY_ADDRESS, require_cluster, require_endpoint, standing_cluster
from jobs.driver.signals import StopFlag, Stopped, stop_flag
from jobs.passes.derived_run import TABLES, DerivedRun, choose, ended_run
from jobs.passes.in_process import InProcess, cores
from jobs.passes.journal import StoredJournal
from jobs.passes.kind import Check, JobKind, Outcome
from jobs.passes.passes import Executor, Passes
from jobs.passes.source import SourceSnapshot
from jobs.passes.summary import Effort, add_report, summarise
from jobs.publish.carry_over import carry_over
from jobs.publish.publish import Snapshot, publish
from jobs.publish.retention import delete_run, retain
from jobs.state.accounting import audit
from jobs.state.ledger import Ledger
from jobs.state.receipts import Files
from jobs.state.records import RunState, write_status, write_summary
from jobs.state.stored_shards import pending
from workers.errors import ReembedError, RunAborted, StoreRefused, UsageError
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.atomicity import probe_atomic_create
from workers.storage.store import DELETE_BATCH, Store
from workers.storage.uris import redact
from workers.table.paths import PROBES, RUNS
from workers.table.small_table import encode_table
from workers.vectors.arrays import save_arrays
from workers.vectors.derived import WriteStep
from workers.vectors.worker import VectorWorker, WorkerSettings

log = logging.getLogger("reembed")

SMALL_BYTES = 512 << 20  # of the snapshot's parts


class WritingExecutor(Executor, Protocol):
    """An Executor that carries out the last pass as well."""

    def write(self, step: WriteStep, shards: Sequence[Shard], record: Callable[[Receipt], Any]) -> None: ...
    def spent(self) -> tuple[int, int, int]:
        """Assignments, vector bytes read from the store, peak memory of the largest process in bytes."""


def run_job(kind: JobKind) -> dict[str, Any]:
    """Run or resume. Returns the summary, which is also stored with the run.

    Raises:
        UsageError: the request is invalid; nothing was written, or what is committed stays. RunAborted: the same command
        resumes (LockHeld: another driver works on this output).
    """
    config, section = kind.config, kind.section
    require_lasting(config.output.uri)
    setting = f"{kind.name}.snapshot"
    require_endpoint(section.snapshot, section.storage_options, setting)
    source = SourceSnapshot.open(section.snapshot, section.storage_options, setting, section.column)
    columns = kind.check(source)
    store = Store(config.output.uri, config.output.storage_options)
    require_endpoint(config.output.uri, config.output.storage_options, "output.uri")
    _require_elsewhere(source, store)
    store.folders(RUNS)
    lock = DriverLock(store)
    lock.refuse_if_held()
    done = ended_run(store, kind, source)
    if done is not None:
        log.info("nothing to do: %s was made from this snapshot with these settings", done["run_id"])
        return done | {"unchanged": True}
    if _in_cluster(kind, source):
        require_cluster(config.cluster.address)
    probe_atomic_create(store, PROBES)
    with lock, stop_flag() as stop:
        run = choose(store, kind, source)
        if kind.writes_parts:
            source = source.divided(run.shards)
        work = _Work(kind, source, run, columns, lock, stop)
        with _resumable(run, lock, stop):
            return work.complete()


@contextlib.contextmanager
def _resumable(run: DerivedRun, lock: DriverLock, stop: StopFlag) -> Iterator[None]:
    """On an error, record on storage how the run ended, and tell the user that it can be resumed.

    A request that only the data could refuse (a label with one class) leaves no run behind: no other request resumes it. A
    store that refuses access is something else: it may be mended, and what the passes answered stays.
    """
    try:
        yield
    except ReembedError as error:
        if not lock.lost.is_set():
            if run.new and isinstance(error, UsageError) and not isinstance(error, StoreRefused):
                delete_run(run.store, run.run_id, lock, stop, history=False)
                raise
            state = RunState.STOPPED if isinstance(error, Stopped) else RunState.ABORTED
            with contextlib.suppress(ReembedError):  # informative only; the first error is told
                _tell(run, state, {"reason": str(error)})
        raise


@dataclass(frozen=True, slots=True)
class _Driver:
    lock: DriverLock
    ledger: Ledger
    stop: StopFlag


class _Work:
    """One driver's work on a run."""

    def __init__(
        self,
        kind: JobKind,
        source: SourceSnapshot,
        run: DerivedRun,
        columns: tuple[str, ...],
        lock: DriverLock,
        stop: StopFlag,
    ) -> None:
        self._kind, self._source, self._run, self._columns = kind, source, run, columns
        self._lock, self._stop = lock, stop
        self._began = time.monotonic()
        self._journal = StoredJournal(run.store, run.run_id, lock.guard)

    def complete(self) -> dict[str, Any]:
        """Program, parts, checks, publication. Returns the summary."""
        run = self._run
        _tell(run, RunState.RUNNING, {})
        with (
            Ledger(run.store, run.run_id, guard=self._lock.guard, generation=self._lock.generation) as ledger,
            self._executor() as executor,
        ):
            passes = Passes(self._source, executor, self._journal)
            outcome = self._kind.program(passes, run.kept)
            if outcome.model:
                run.store.put(run.paths.shape, json.dumps(dict(outcome.model)).encode())
            tables = self._tables(outcome)
            if outcome.step is None:
                ledger.record(Receipt.of_rows(TABLES, 0, tables, "driver"))
                receipts: Mapping[int, Receipt] = ledger.load()
            else:
                receipts = self._write(outcome, executor, ledger)
            ledger.drain()
            effort = Effort(tuple(passes.done), time.monotonic() - self._began, *executor.spent())
        return self._publish(outcome, receipts, tables, effort)

    def _write(self, outcome: Outcome, executor: WritingExecutor, ledger: Ledger) -> Mapping[int, Receipt]:
        """The receipts of all shards: carried over, or written by the last pass."""
        run, receipts = self._run, ledger.load()
        if outcome.carry and run.kept is not None:
            unchanged = [shard for shard in pending(run.shards, receipts) if shard.carried is not None]
            carry_over(run.store, run.run_id, run.kept.run_id, unchanged, _Driver(self._lock, ledger, self._stop))
            receipts = ledger.load()
        todo = [shard for shard in self._source.shards if shard.number not in receipts]
        if todo and outcome.step is not None:
            executor.write(outcome.step, todo, ledger.record_async)
            ledger.drain()
        return ledger.load()

    def _publish(
        self, outcome: Outcome, receipts: Mapping[int, Receipt], tables: Sequence[OutputFile], effort: Effort
    ) -> dict[str, Any]:
        run, checks = self._run, [*outcome.checks]
        accounting = audit(run.shards, receipts, ())
        checks.append(Check("rows", not accounting.breaches, "; ".join(accounting.breaches[:3])))
        save_arrays(run.store, run.paths.state, outcome.state)
        reasons = [check.reason for check in checks if not check.ok]
        summary = summarise(run, outcome, checks, receipts, tables, effort)
        if reasons:
            return self._end(outcome, summary | {"state": RunState.REFUSED.value, "published": False, "reasons": reasons})
        self._stop.check()
        own = {"model": summary["model"], "job": self._kind.name, "source": summary["source"], **outcome.facts}
        facts = run.record.facts() | own | {"documents": summary["documents"]}
        damaged = publish(Snapshot(run.store, run.run_id, Files(receipts), facts), self._lock)
        if damaged is not None:
            raise RunAborted(f"{damaged.files[0]}: missing or altered before it was published; run the same command again")
        summary |= {"state": RunState.COMPLETE.value, "published": True, "reasons": []}
        self._clear()
        return self._end(outcome, summary)

    def _end(self, outcome: Outcome, summary: dict[str, Any]) -> dict[str, Any]:
        run, keep = self._run, self._kind.config.output.keep_snapshots
        write_summary(run.store, run.run_id, summary)  # before retention deletes what a run without one is resumed from
        if summary["published"]:
            summary["deleted_snapshots"] = retain(run.store, self._lock, keep, self._stop)
        add_report(run, outcome, summary)
        write_summary(run.store, run.run_id, summary)
        for reason in summary["reasons"]:
            log.error("not published: %s", reason)
        return summary

    def _tables(self, outcome: Outcome) -> list[OutputFile]:
        """Stores the outcome's tables. A job without parts has them where its readers look for data."""
        run, stored = self._run, []
        for name, table in outcome.tables.items():
            data = encode_table(table)
            path = run.paths.table(name) if self._kind.writes_parts else run.paths.data_table(name)
            self._lock.guard()
            run.store.put(path, data)
            stored.append(OutputFile(path, table.num_rows, len(data), hashlib.sha256(data).hexdigest(), ""))
        return stored

    def _clear(self) -> None:
        """What only an unfinished run needs. A failure is a warning: the run is published."""
        store, paths = self._run.store, self._run.paths
        try:
            for folder in (paths.passes, paths.scratch):
                left = list(store.list(folder))
                for at in range(0, len(left), DELETE_BATCH):
                    store.delete_many(left[at : at + DELETE_BATCH])
                store.prune(folder)
        except ReembedError as error:
            log.warning("what the passes left was not all deleted; retention will: %s", error)

    @contextlib.contextmanager
    def _executor(self) -> Iterator[WritingExecutor]:
        first_epoch = self._lock.first_epoch
        if _in_cluster(self._kind, self._source):
            from jobs.passes.actors import Actors  # imports ray

            config = self._kind.config
            with Actors(config.cluster, config.run, self._settings(), first_epoch, self._check) as actors:
                self._stop.install()  # Ray has replaced the handlers
                yield actors
        else:
            worker = VectorWorker(self._settings(), "driver")
            try:
                yield InProcess(worker, cores(), first_epoch, self._check)
            finally:
                worker.close()

    def _settings(self) -> WorkerSettings:
        source, run, config = self._source, self._run, self._kind.config
        return WorkerSettings(
            source_uri=source.store.uri,
            output_uri=run.store.uri,
            schema=source.schema,
            stamp=run.stamp,
            fingerprint=run.record.fingerprint,
            columns=self._columns,
            first_rows=source.first_rows,
            numbers=[shard.number for shard in source.shards],
            cache_bytes=config.run.cache_bytes,
            atomic_create=run.store.atomic_create,
            source_options=source.storage_options,
            output_options=config.output.storage_options,
        )

    def _check(self) -> None:
        """For every turn of a loop, so it makes no request. What writes asks the lock's guard as well."""
        self._stop.check()
        self._lock.raise_if_lost()


def _tell(run: DerivedRun, state: RunState, more: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_status(run.store, run.run_id, {"run_id": run.run_id, "updated": now, "state": state.value, **more})


def _in_cluster(kind: JobKind, source: SourceSnapshot) -> bool:
    """Whether the passes are for actors on Ray."""
    address = kind.config.cluster.address
    named = address not in ("auto", "local") or (address == "auto" and (RAY_ADDRESS in os.environ or standing_cluster()))
    return bool(named) or kind.config.cluster.replicas != "auto" or source.bytes > SMALL_BYTES


def _require_elsewhere(source: SourceSnapshot, store: Store) -> None:
    """Raises: UsageError: the output is the snapshot's own folder."""
    if store.uri.rstrip("/") == source.store.uri.rstrip("/"):
        mend = "give the job's output a folder of its own"
        raise UsageError(f"output.uri={redact(store.uri)}: is the folder of the snapshot; {mend}")

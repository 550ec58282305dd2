"""The embedding job: plan -> dispatch -> account -> publish. `reembed embed`, or `python -m jobs.embed CONFIG`.

1. choose run  resume an unfinished run of the same settings, or list the source for an ended or a new run
2. carry over  parts of unchanged objects are copied from the published snapshot                   (publish/carry_over.py)
3. embed       replicas on Ray embed the shards without a receipt; if there are none, Ray is not started (session.py)
4. gate        rows in = rows out + rows quarantined, shard by shard, and all other checks         (gate/judge.py)
5. publish     unless a check failed: the change set, if wanted (publish/change_sets.py); check the files, replace
               CURRENT.json and commit the table, if wanted, then the data set card                (publish/publish.py)
6. retain      snapshots beyond output.keep_snapshots are deleted                                  (publish/retention.py)
7. report      report.html                                                                         (report/write.py)

Nothing is written before the request has been validated; everything needed to resume is on storage.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from jobs.config import RunConfig
from jobs.driver.lock import DriverLock
from jobs.driver.preflight import require_cluster, starts_a_ray
from jobs.driver.signals import StopFlag, Stopped, stop_flag
from jobs.embed.context import DriverContext
from jobs.embed.lineage import lineage_of
from jobs.evaluate.gate import judge_quality, quality_section
from jobs.monitoring.lineage import require_lineage
from jobs.monitoring.metrics import Outcome, RunMetrics, Stage
from jobs.planning.choose_run import find_resumable, plan_or_reopen
from jobs.planning.planned_run import PlannedRun
from jobs.planning.prediction import predict
from jobs.planning.request import Request
from jobs.planning.run import ReuseRefused, Run
from jobs.planning.spending import require_room
from jobs.publish.card import put_card
from jobs.publish.carry_over import carry_over
from jobs.publish.change_sets import write_night
from jobs.publish.gate.checks import failed
from jobs.publish.gate.judge import judge
from jobs.publish.publish import Snapshot, publish
from jobs.publish.retention import retain
from jobs.publish.tables.follow import following, refuse_columns, require_table, settle, tidy
from jobs.report.summary import Ending
from jobs.report.write import add_report, report_abort, summarise
from jobs.state.accounting import Work, audit, totals
from jobs.state.current import why_not_again
from jobs.state.ledger import Ledger
from jobs.state.quarantine import finish_quarantine
from jobs.state.receipts import Files, Receipts
from jobs.state.records import RunState
from jobs.state.stored_shards import pending
from workers.errors import ReembedError, ReplicaRefused, RunAborted, UsageError
from workers.records.shard import Receipt, Shard
from workers.replica.golden_reference import golden_reference_file
from workers.storage.atomicity import probe_atomic_create
from workers.table.paths import PROBES

if TYPE_CHECKING:
    from jobs.embed.session import Session

log = logging.getLogger("reembed")

UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
"""Under `uv run` Ray would start each replica by `uv run` in a copy of the project, without its environment: for nodes that
lack it. Replicas of this machine have the driver's own. Somebody's own setting wins."""


def embed_corpus(config: RunConfig) -> dict[str, Any]:
    """Run or resume. Returns the summary, which is also stored with the run.

    Raises:
        UsageError: the request is invalid; nothing was started or written.
        RunAborted: stopped early (LockHeld: another driver works on this output); the same command resumes.
    """
    if config.gate.evaluate is not None:
        quality_section(config.gate.evaluate)  # refused before anything is written
    require_lineage(config.lineage)
    request = Request.resolve(config)
    lock = DriverLock(request.store)
    lock.refuse_if_held()
    kind = config.output.table
    agrees = require_table(request.store, kind)
    run: Run | PlannedRun = find_resumable(request) or plan_or_reopen(request)
    if isinstance(run, Run) and run.current and (summary := run.summary()).get("published"):
        if not agrees:
            probe_atomic_create(request.store, PROBES)
            with lock:
                settle(request.store, lock, kind, begin=True)
        log.info("nothing to do: snapshot %s was made from this corpus with these settings", run.run_id)
        return summary | {"unchanged": True}
    if isinstance(run, PlannedRun) and run.embeds:
        require_cluster(config.cluster.address)  # for a run that exists, once its receipts show that Ray is needed
    refuse_columns(kind, request.store, run.plan, config.output.partition_by)
    probe_atomic_create(request.store, PROBES)
    with lock, stop_flag() as stop:
        settle(request.store, lock, kind)
        run = find_resumable(request) or run  # another driver may have begun it meanwhile
        try:
            return _work(run, lock, stop)
        except ReuseRefused as error:
            log.warning("%s; planned again without reuse", error)
            run.discard(lock)
            return _work(plan_or_reopen(request, reuse=False), lock, stop)


def _work(run: Run | PlannedRun, lock: DriverLock, stop: StopFlag) -> dict[str, Any]:
    metrics = RunMetrics()
    guarded = Ledger(run.store, run.run_id, guard=lock.guard, generation=lock.generation)
    with contextlib.ExitStack() as resources, guarded as ledger:
        driver = DriverContext(lock, ledger, stop, metrics, resources)
        try:
            if isinstance(run, PlannedRun):
                begun, session = _begin(driver, run)
            else:
                begun, session = run, None
            with lineage_of(begun, lock.generation) as told, _resumable(driver, begun):
                summary = _complete(driver, begun, session)
                told |= summary
        except ReuseRefused:
            raise
        except ReembedError as error:
            metrics.ended(Outcome.STOPPED if isinstance(error, Stopped) else Outcome.ABORTED)
            raise
        metrics.ended(Outcome.PUBLISHED if summary["published"] else Outcome.REFUSED)
        return summary


def _begin(driver: DriverContext, planned: PlannedRun) -> tuple[Run, Session | None]:
    """The begun run, and the session whose replica calibrated it; None for a run on a base, which needs no calibration."""
    predicted = _in_background(predict, planned)
    if planned.reuse:
        return planned.begin_on_base(predicted()), None
    session = _open_session(driver, planned)
    return session.begin(planned, predicted), session


@contextlib.contextmanager
def _resumable(driver: DriverContext, run: Run) -> Iterator[None]:
    """For a begun run: on an error, record on storage how the run ended, and tell the user that it can be resumed."""
    try:
        yield
    except ReuseRefused:
        raise
    except ReembedError as error:
        if not driver.lock.lost.is_set():
            if isinstance(error, Stopped):
                _mark_stopped(run, error)
            elif isinstance(error, RunAborted | ReplicaRefused):
                report_abort(run, error)
        if isinstance(error, ReplicaRefused):  # the same command would meet it again
            raise
        if isinstance(error, UsageError):
            raise RunAborted(f"{error} (run {run.run_id} can be resumed by the same command)") from error
        raise


def _mark_stopped(run: Run, error: Stopped) -> None:
    """A failure is only a warning: the signal decides the exit status."""
    try:
        run.mark_stopped(str(error))
    except ReembedError as failure:
        log.warning("status.json not written: %s", failure)


def _complete(driver: DriverContext, run: Run, session: Session | None) -> dict[str, Any]:
    """Carry over, embed, check, publish, retain and report. Returns the summary. `session`: of a run that has just begun."""
    if session is None and (reason := why_not_again(run.store, run.run_id)):
        return _refuse(run, driver.ledger.load(), reason)
    receipts = driver.ledger.load() if session is None else Receipts()
    if receipts:
        log.info("resuming %s: %d of %d shards are done", run.run_id, len(receipts), len(run.shards))
    quarantined: Mapping[int, str] = {}
    receipts, work = _carry_over(driver, run, receipts, run.work())
    while True:
        todo = pending(run.shards, receipts)
        if todo and session is None:
            _require_room(run, todo, receipts, work)
        if session is not None or todo:
            quarantined, work = (session or _open_session(driver, run)).embed(run, receipts, work)
            session = None
            driver.metrics.stage(Stage.JUDGING)
            receipts = driver.ledger.load()
            finish_quarantine(run.store, run.run_id, run.shards, receipts, quarantined)
        summary = _account(run, receipts, quarantined, work)
        if summary["reasons"]:
            break
        driver.stop.check()
        driver.metrics.stage(Stage.PUBLISHING)
        if run.config.output.changes:
            summary["changes"] = write_night(run.stored(receipts), _checked(driver))
        facts = run.facts() | {"documents": summary["documents"]}
        table = following(run.stored(receipts), run.config.output.table)
        damaged = publish(Snapshot(run.store, run.run_id, Files(receipts), facts), driver.lock, table=table)
        if damaged is None:
            summary |= {"published": True, "state": RunState.COMPLETE.value}
            put_card(run.stored(receipts), driver.lock.guard)
            summary["deleted_snapshots"] = retain(run.store, driver.lock, run.config.output.keep_snapshots, driver.stop)
            tidy(run.store, driver.lock, run.config.output.table)
            break
        log.warning("parts are missing or altered, e.g. %s; their shards are embedded again", damaged.files[0])
        driver.ledger.drop(damaged.shards)
        for path in damaged.files:
            run.store.delete(path)
        receipts = driver.ledger.load()
    return _end(run, receipts, summary)


def _checked(driver: DriverContext) -> Callable[[], None]:
    """For long work of the driver itself: raises once it is to stop, or another driver has taken over."""

    def check() -> None:
        driver.stop.check()
        driver.lock.guard()

    return check


def _require_room(run: Run, todo: Sequence[Shard], receipts: Receipts, work: Work) -> None:
    """Before Ray is started. Raises: RunAborted: the budget is spent; the status says so."""
    try:
        require_room(run, todo, receipts, work)
    except RunAborted as error:
        run.write_status({"state": RunState.ABORTED.value, "reason": str(error)}, work)
        raise


def _refuse(run: Run, receipts: Receipts, reason: str) -> dict[str, Any]:
    """End a run that a person has taken back: it is complete, so nothing is embedded or published."""
    summary = run.summary() or _account(run, receipts, {}, run.work())
    return _end(run, receipts, summary | {"state": RunState.REFUSED.value, "published": False, "reasons": [reason]})


def _end(run: Run, receipts: Mapping[int, Receipt], summary: dict[str, Any]) -> dict[str, Any]:
    run.end(summary)  # before the report is drawn, so that the outcome is stored at once
    add_report(run, receipts, summary)
    if "report" in summary:
        run.end(summary)
    for reason in summary["reasons"]:
        log.error("not published: %s", reason)
    return summary


def _in_background(call: Callable[[PlannedRun], dict[str, Any]], run: PlannedRun) -> Callable[[], dict[str, Any]]:
    """Start `call` in a thread, while Ray starts; returns a function that waits for its result."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call, run)
    pool.shutdown(wait=False)
    return future.result


def _open_session(driver: DriverContext, run: Run | PlannedRun) -> Session:
    """Connect to Ray, which is imported only here. If Ray is started locally, the golden reference is computed meanwhile."""
    reference = None
    if starts_a_ray(run.config.cluster.address):
        os.environ.setdefault(UV_HOOK, "0")  # before ray is imported, which reads it then
        computed = golden_reference_file(run.config.model, run.request.model, run.request.recipe)
        reference = driver.resources.enter_context(computed)
    from jobs.embed.session import Session

    return Session(driver, run, reference)


def _carry_over(driver: DriverContext, run: Run, receipts: Receipts, work: Work) -> tuple[Receipts, Work]:
    """Copy once, before anything is embedded. Parts found damaged later are embedded, not copied again."""
    shards = [shard for shard in pending(run.shards, receipts) if shard.carried is not None]
    if not shards or run.record.base is None:
        return receipts, work
    began = time.monotonic()
    try:
        carried = carry_over(run.store, run.run_id, run.record.base, shards, driver)
    except ReembedError as error:
        if not driver.lock.lost.is_set():
            state = RunState.STOPPED if isinstance(error, Stopped) else RunState.ABORTED
            run.write_status({"state": state.value, "reason": str(error)}, work.plus(0, time.monotonic() - began, ()))
        raise
    for receipt in carried.values():
        receipts.add(receipt)
    return receipts, work.plus(0, time.monotonic() - began, ())


def _account(run: Run, receipts: Mapping[int, Receipt], quarantined: Mapping[int, str], work: Work) -> dict[str, Any]:
    """The summary before publishing: `gate` has all checks, `reasons` those that forbid publishing.

    Raises:
        RunAborted: a shard is neither done nor quarantined. UsageError, TransientError.
    """
    accounting, sums = audit(run.shards, receipts, quarantined), totals(receipts)
    checks = judge(run.stored(receipts), sums, accounting, run.config.gate, run.config.run.max_quarantined_rows)
    if run.config.gate.evaluate is not None and not failed(checks):
        quality = quality_section(run.config.gate.evaluate)
        checks.append(judge_quality(run.stored(receipts), quality, run.config.output.storage_options))
    reasons = [check.reason for check in failed(checks)]
    ending = Ending(
        RunState.REFUSED if reasons else RunState.RUNNING,
        accounting.known_quarantined_rows,
        quarantined_rows_is_minimum=accounting.quarantined_rows is None,
        quarantined_shards=quarantined,
        reasons=reasons,
    )
    return summarise(run, ending, sums, work) | {"gate": [check.to_json() for check in checks]}

"""THE job: plan -> dispatch -> account -> publish. `reembed embed`, or `python -m jobs.embed CONFIG`.

1. which run   resume the unfinished one of the same settings; else list the source: a run made before, or a new one
2. carry over  parts of unchanged objects are copied from the published snapshot                   (carry_over.py)
3. embed       replicas on Ray embed what has no receipt yet; where all have one, no Ray is started   (session.py)
4. gate        rows in = rows out + rows quarantined, shard by shard, and all other checks         (gate/judge.py)
5. publish     unless a check failed: check the files, flip CURRENT.json, last                     (publish/publish.py)
6. retain      snapshots beyond output.keep_snapshots are deleted                                  (publish/retention.py)
7. report      the run as a page, for people                                                       (report/write.py)

Nothing is written before the request has proved possible; everything needed to resume is on storage.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.config import RunConfig
from jobs.driver.claims import probe_atomic_create
from jobs.driver.lock import DriverLock
from jobs.driver.preflight import require_cluster, starts_a_ray
from jobs.driver.signals import StopFlag, Stopped, stop_flag
from jobs.embed.carry_over import carry
from jobs.gate.checks import failed
from jobs.gate.judge import judge
from jobs.monitoring.metrics import Outcome, RunMetrics, Stage
from jobs.planning.prediction import predict
from jobs.planning.run import Request, ReuseRefused, Run, find_resumable, plan_or_reopen
from jobs.publish.publish import publish, why_not_again
from jobs.publish.retention import retain
from jobs.report.summary import Work, build_summary
from jobs.report.write import add_report, report_abort
from jobs.state.ledger import Ledger
from jobs.state.quarantine import settle_quarantine
from jobs.state.receipts import Files, Receipts
from jobs.state.records import RunState, read_status, write_status
from workers.errors import ReembedError, RunAborted, UsageError
from workers.records.shard import Receipt
from workers.replica.golden_reference import ReferenceFile, computed_beside

log = logging.getLogger("reembed")


def embed_corpus(config: RunConfig) -> dict[str, Any]:
    """Run or resume; returns the summary that is also stored with the run.

    Raises:
        UsageError: nothing was started, nothing written.
        RunAborted: stopped early (LockHeld: another driver works here); the same command resumes.
    """
    request = Request.resolve(config)
    lock = DriverLock(request.store)
    lock.refuse_if_held()
    run = find_resumable(request) or plan_or_reopen(request)
    if run.current and (summary := run.summary()).get("published"):
        log.info("nothing to do: snapshot %s was made from this corpus with these settings", run.run_id)
        return summary | {"unchanged": True}
    if run.record is None and run.embeds:
        require_cluster(config.cluster.address)
    probe_atomic_create(request.store)
    with lock, stop_flag() as stop:
        run = find_resumable(request) or run  # another driver may have begun it meanwhile
        try:
            return _work(run, lock, stop)
        except ReuseRefused as error:
            log.warning("%s; planned again without reuse", error)
            run.discard(lock)
            return _work(plan_or_reopen(request, reuse=False), lock, stop)


def _work(run: Run, lock: DriverLock, stop: StopFlag) -> dict[str, Any]:
    metrics = RunMetrics()
    guarded = Ledger(run.store, run.run_id, guard=lock.guard, generation=lock.generation)
    with contextlib.ExitStack() as connection, guarded as ledger:
        try:
            summary = _finish(run, lock, ledger, stop, metrics, connection)
        except ReuseRefused:
            raise
        except ReembedError as error:
            metrics.ended(Outcome.STOPPED if isinstance(error, Stopped) else Outcome.ABORTED)
            if isinstance(error, RunAborted) and not isinstance(error, Stopped) and not lock.lost.is_set():
                report_abort(run, error)
            if isinstance(error, Stopped) and not lock.lost.is_set():
                _tell_stopped(run, error)
            if isinstance(error, UsageError) and run.record is not None:
                raise RunAborted(f"{error} (run {run.run_id} can be resumed by the same command)") from error
            raise
        metrics.ended(Outcome.PUBLISHED if summary["published"] else Outcome.REFUSED)
        return summary


def _finish(
    run: Run, lock: DriverLock, ledger: Ledger, stop: StopFlag, metrics: RunMetrics, connection: contextlib.ExitStack
) -> dict[str, Any]:
    if run.record and (reason := why_not_again(run.store, run.run_id)):
        return _refuse(run, ledger, reason)
    receipts = ledger.load() if run.record else Receipts()
    if receipts:
        log.info("resuming %s: %d of %d shards are done", run.run_id, len(receipts), len(run.shards))
    if run.record is None:
        run.predict = _beside(predict, run)
        if run.reuse:
            run.begin_on_base()
    quarantined: Mapping[int, str] = {}
    work = run.work()
    receipts, work = _carry(run, lock, ledger, receipts, work, stop)
    while True:
        if ledger.pending(run.shards, receipts) or run.record is None:
            with _reference(run) as reference:
                from jobs.embed.session import embed_pending  # ray is loaded only when there is something to embed

                quarantined, work = embed_pending(run, lock, ledger, receipts, work, stop, reference, metrics, connection)
            metrics.stage(Stage.JUDGING)
            receipts = ledger.load()
            settle_quarantine(run.store, run.run_id, run.shards, receipts, quarantined)
        summary = _account(run, ledger, receipts, quarantined, work)
        if summary["reasons"]:
            break
        stop.check()
        metrics.stage(Stage.PUBLISHING)
        facts = run.facts() | {"documents": summary["documents"]}
        damaged = publish(run.store, run.run_id, Files(receipts), facts, lock)
        if damaged is None:
            summary |= {"published": True, "state": RunState.COMPLETE.value}
            summary["deleted_snapshots"] = retain(run.store, lock, run.config.output.keep_snapshots, stop)
            break
        log.warning("parts are missing or altered, e.g. %s; their shards are embedded again", damaged.files[0])
        ledger.drop(damaged.shards)
        for path in damaged.files:
            run.store.delete(path)
        receipts = ledger.load()
    return _end(run, receipts, summary)


def _tell_stopped(run: Run, why: Stopped) -> None:
    """On storage, where nobody else has said so: while it is judged, say. The command still ends by the signal."""
    try:
        status = read_status(run.store, run.run_id)
        if status and status["state"] == RunState.RUNNING:
            write_status(run.store, run.run_id, status | {"state": RunState.STOPPED.value, "reason": str(why)})
    except ReembedError as error:
        log.warning("status.json not written: %s", error)


def _refuse(run: Run, ledger: Ledger, reason: str) -> dict[str, Any]:
    """A run that a person has taken back is complete: nothing is embedded, and nothing published."""
    receipts = ledger.load()
    summary = run.summary() or _account(run, ledger, receipts, {}, run.work())
    return _end(run, receipts, summary | {"state": RunState.REFUSED.value, "published": False, "reasons": [reason]})


def _end(run: Run, receipts: Mapping[int, Receipt], summary: dict[str, Any]) -> dict[str, Any]:
    run.end(summary)  # before anything is drawn: how the run ended must be known at once
    add_report(run, receipts, summary)
    if "report" in summary:
        run.end(summary)
    for reason in summary["reasons"]:
        log.error("not published: %s", reason)
    return summary


def _beside(call: Callable[[Run], dict[str, Any]], run: Run) -> Callable[[], dict[str, Any]]:
    """What `call` returns, computed while Ray starts."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call, run)
    pool.shutdown(wait=False)
    return future.result


def _reference(run: Run) -> contextlib.AbstractContextManager[ReferenceFile | None]:
    """Where Ray is about to be started here, what its replicas have to prove themselves by is computed meanwhile."""
    if starts_a_ray(run.config.cluster.address):
        return computed_beside(run.config.model, run.request.model, run.request.recipe)
    return contextlib.nullcontext()


def _carry(
    run: Run, lock: DriverLock, ledger: Ledger, receipts: Receipts, work: Work, stop: StopFlag
) -> tuple[Receipts, Work]:
    """Copy once, before anything is embedded: parts that turn out damaged later are embedded, not copied again."""
    shards = [shard for shard in ledger.pending(run.shards, receipts) if shard.carried is not None]
    if not shards or run.record is None or run.record.base is None:
        return receipts, work
    began = time.monotonic()
    try:
        carried = carry(run.store, run.run_id, run.record.base, shards, ledger, lock, stop)
    except ReembedError as error:
        if not lock.lost.is_set():
            state = RunState.STOPPED if isinstance(error, Stopped) else RunState.ABORTED
            run.write_status({"state": state.value, "reason": str(error)}, work.plus(0, time.monotonic() - began, ()))
        raise
    for receipt in carried.values():
        receipts.add(receipt)
    return receipts, work.plus(0, time.monotonic() - began, ())


def _account(
    run: Run, ledger: Ledger, receipts: Mapping[int, Receipt], quarantined: Mapping[int, str], work: Work
) -> dict[str, Any]:
    """The summary as it stands before publishing: `gate` has all checks, `reasons` says why it must not be published.

    Raises:
        RunAborted: a shard has no end yet. UsageError, TransientError.
    """
    accounting = ledger.audit(run.shards, receipts, quarantined)
    if run.record is None:
        raise RuntimeError("a run without a record has nothing to judge")
    limit = run.config.run.max_quarantined_rows
    totals = ledger.totals(receipts)
    checks = judge(run.store, run.record, run.shards, receipts, totals, accounting, run.config.gate, limit)
    reasons = [check.reason for check in failed(checks)]
    summary = build_summary(
        run_id=run.run_id,
        state=RunState.REFUSED.value if reasons else RunState.RUNNING.value,
        published=False,
        data=run.store.uri_of(run.paths.data),
        planned=len(run.shards),
        quarantined_shards=quarantined,
        totals=totals,
        quarantined_rows=accounting.known_quarantined_rows,
        quarantined_rows_is_minimum=accounting.quarantined_rows is None,
        work=work,
        facts=run.facts() | {"reuse": run.reuse_facts(totals.carried)},
        gpu_hour_usd=run.config.cost.gpu_hour_usd,
        reasons=reasons,
    )
    return summary | {"gate": [check.to_json() for check in checks]}

"""report.html of a run, next to its summary.json: gathered, drawn and stored once the run has ended.

A report never decides about a run: whatever goes wrong here is a warning in the log, and the run ends as it would have.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from jobs.planning.run import Run
from jobs.report.summary import build_summary
from jobs.state.ledger import Ledger, load_receipts
from jobs.state.records import RunState
from workers.errors import RunAborted
from workers.records.shard import Receipt
from workers.storage.store import Store

log = logging.getLogger("reembed")

DRAWING_LIBRARIES = ("jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg")
ABORTED_SHARDS = 20_000  # with more of them a run that aborted gets no report: reading its receipts takes too long
ABORTED_RETRY_SECONDS = 5.0  # the store may be why it aborted


def get_ready() -> None:
    """Load the drawing libraries, half a second of work, in a thread: called while this process waits for Ray to end."""
    threading.Thread(target=_load_libraries, name="report-libraries", daemon=True).start()


def _load_libraries() -> None:
    try:
        for name in DRAWING_LIBRARIES:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - said again, with the run, by who draws
        log.debug("report: %s", error)


def add_report(run: Run, receipts: Mapping[int, Receipt], summary: dict[str, Any]) -> None:
    """Store report.html; what it shows is put into `summary` under `report`."""
    try:
        _store_report(run.store, run, receipts, summary)
    except Exception as error:  # noqa: BLE001 - a drawing must not cost a run that is done
        log.warning("no report of run %s: %s: %s", run.run_id, type(error).__name__, error)


def report_abort(run: Run, abort: RunAborted) -> None:
    """A report of what was committed before the run aborted. Leaves summary.json alone, which tells how runs ended."""
    if run.record is None or len(run.shards) > ABORTED_SHARDS:
        return
    try:
        output = run.config.output
        store = Store(output.uri, output.storage_options, retry_seconds=ABORTED_RETRY_SECONDS)
        receipts = load_receipts(store, run.run_id)
        totals = Ledger.totals(receipts)
        summary = build_summary(
            run_id=run.run_id,
            state=RunState.ABORTED.value,
            published=False,
            data=store.uri_of(run.paths.data),
            planned=len(run.shards),
            quarantined_shards={},
            totals=totals,
            quarantined_rows=totals.quarantined_rows,
            quarantined_rows_is_minimum=True,
            work=run.work(),
            facts=run.facts(),
            gpu_hour_usd=run.config.cost.gpu_hour_usd,
            reasons=[str(abort)],
        )
        _store_report(store, run, receipts, summary)
    except Exception as error:  # noqa: BLE001 - the abort is what the user must hear of
        log.warning("no report of run %s: %s: %s", run.run_id, type(error).__name__, error)


def _store_report(store: Store, run: Run, receipts: Mapping[int, Receipt], summary: dict[str, Any]) -> None:
    from jobs.report.facts import gather_facts
    from jobs.report.page import render_page
    from jobs.state.quarantine_reasons import Reasons, count_reasons

    facts = gather_facts(
        shards=run.shards,
        receipts=receipts,
        summary=summary,
        reasons=count_reasons(store, run.run_id) if summary["quarantined_rows"] or summary["lost_objects"] else Reasons(),
        predicted=run.record.extra.get("predicted", {}) if run.record else {},
    )
    page = render_page(facts, summary)
    store.put(run.paths.report, page.encode())
    summary["report"] = {"page": run.paths.report, **facts.to_json()}
    log.info("report: %s", store.uri_of(run.paths.report))

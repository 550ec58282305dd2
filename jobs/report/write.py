"""Writes a run's report.html next to its summary.json, after the run has ended.

A report never changes the outcome of a run: any error here is logged as a warning.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from jobs.planning.run import Run
from jobs.planning.spending import budget_facts, spent_before
from jobs.report.summary import Ending, RunFacts, build_summary
from jobs.state.accounting import Totals, Work, totals
from jobs.state.ledger import load_receipts
from jobs.state.records import RunState
from workers.errors import ReembedError
from workers.records.shard import Receipt
from workers.storage.store import Store

log = logging.getLogger("reembed")

DRAWING_LIBRARIES = ("jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg")
ABORTED_SHARDS = 20_000  # an aborted run with more shards gets no report: reading its receipts would take too long
ABORTED_RETRY_SECONDS = 5.0  # short: the store may be the reason for the abort


def preload_libraries() -> None:
    """Import the drawing libraries (half a second) in a thread, while the driver waits for Ray to shut down."""
    threading.Thread(target=_import_libraries, name="report-libraries", daemon=True).start()


def _import_libraries() -> None:
    try:
        for name in DRAWING_LIBRARIES:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - drawing raises it again, and names the run
        log.debug("report: %s", error)


def summarise(run: Run, ending: Ending, sums: Totals, work: Work) -> dict[str, Any]:
    """The run's summary (summary.py)."""
    facts = run.facts() | {"reuse": run.reuse_facts(sums.carried)}
    if run.plan.exclusion is not None:
        facts |= {"exclude": dataclasses.asdict(run.plan.exclusion)}
    if budget := budget_facts(run.config.cost, spent_before(sums.tokens, work)):
        facts |= {"budget": budget}
    data = run.store.uri_of(run.paths.data)
    return build_summary(
        RunFacts(run.run_id, data, len(run.shards), facts, run.config.cost.gpu_hour_usd), ending, sums, work
    )


def add_report(run: Run, receipts: Mapping[int, Receipt], summary: dict[str, Any]) -> None:
    """Store report.html, and put its figures into `summary` under `report`."""
    try:
        _store_report(run.store, run, receipts, summary)
    except Exception as error:  # noqa: BLE001 - a failed report must not fail a finished run
        log.warning("no report of run %s: %s: %s", run.run_id, type(error).__name__, error)


def report_abort(run: Run, abort: ReembedError) -> None:
    """Store a report of the shards committed before the abort. summary.json is not written: only finished runs have one."""
    if len(run.shards) > ABORTED_SHARDS:
        return
    try:
        output = run.config.output
        store = Store(output.uri, output.storage_options, retry_seconds=ABORTED_RETRY_SECONDS)
        receipts = load_receipts(store, run.run_id)
        sums = totals(receipts)
        ending = Ending(RunState.ABORTED, sums.quarantined_rows, quarantined_rows_is_minimum=True, reasons=(str(abort),))
        summary = summarise(run, ending, sums, run.work())
        _store_report(store, run, receipts, summary)
    except Exception as error:  # noqa: BLE001 - the user must see the abort, not this error
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
        predicted=run.record.extra.get("predicted", {}),
    )
    page = render_page(facts, summary)
    store.put(run.paths.report, page.encode())
    summary["report"] = {"page": run.paths.report, **facts.to_json()}
    log.info("report: %s", store.uri_of(run.paths.report))

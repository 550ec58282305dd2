"""The record of a job over a snapshot: summary.json, the same as text, and report.html."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.passes.derived_run import FACTS, DerivedRun
from jobs.passes.kind import Check, JobKind, Outcome
from jobs.report.template import POLICY, STYLE
from jobs.state.accounting import totals
from jobs.state.records import SOURCE, RunState
from workers.records.shard import OutputFile, Receipt

log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class Effort:
    """What this driver spent; passes that the journal answered are not among `passes`."""

    passes: tuple[tuple[str, float], ...]  # (name, seconds)
    seconds: float
    attempts: int
    vector_bytes_read: int
    peak_memory_bytes: int  # of the largest process that works on vectors


def summarise(
    run: DerivedRun,
    outcome: Outcome,
    checks: Sequence[Check],
    receipts: Mapping[int, Receipt],
    tables: Sequence[OutputFile],
    effort: Effort,
) -> dict[str, Any]:
    """summary.json, and the object that `--json` prints. The job's own figures stand at the top level, and under `facts`."""
    sums = totals(receipts)
    source = run.record.extra[SOURCE]
    rows = source["rows"] if outcome.step is None else min(sums.rows, source["rows"])  # an index may hold rows that are gone
    own = {
        "run_id": run.run_id,
        "job": run.record.job,
        "state": RunState.RUNNING.value,
        "published": False,
        "reasons": [],
        "data": run.store.uri_of(run.paths.data),
        "documents": rows,
        "rows": rows,
        "quarantined_rows": 0,
        "reused_rows": sums.reused_rows,
        "shards": {"planned": len(run.shards), "done": sums.shards, "quarantined": 0},
        "tables": [file.path for file in tables],
        "output_bytes": sums.output_bytes + sum(file.bytes for file in tables),
        "seconds": round(effort.seconds, 3),
        "passes": [{"name": name.strip("_"), "seconds": round(seconds, 3)} for name, seconds in effort.passes],
        "attempts": effort.attempts,
        "vector_bytes_read": effort.vector_bytes_read,
        "peak_memory_bytes": effort.peak_memory_bytes,
        "reuse": {"base": run.record.base, "carried_shards": sums.carried},
        "source": source,
        "gate": [check.to_json() for check in checks],
        FACTS: dict(outcome.facts),
        **run.record.facts(),
        "model": run.record.model | dict(outcome.model),
    }
    return {name: value for name, value in outcome.facts.items() if name not in own} | own


def summary_text(kind: JobKind, summary: Mapping[str, Any]) -> str:
    """The summary as text for a terminal."""
    passes, source = summary["passes"], summary["source"]
    failed = [check["name"] for check in summary["gate"] if not check["ok"]]
    nothing = " (nothing to do)" if summary.get("unchanged") else ""
    told = f"failed: {', '.join(failed)}" if failed else f"passed ({len(summary['gate'])})"
    lines = [
        f"{summary['job']} {summary['run_id']}: {summary['state']}{nothing}",
        f"  source      {source['uri']}, snapshot {source['run_id']}, {source['rows']:,} rows",
        *(f"  {line}" for line in kind.text({**summary, **summary[FACTS]})),
        f"  passes      {len(passes)} in {summary['seconds']:,.1f} s, {summary['vector_bytes_read']:,} vector bytes read; "
        f"{summary['reuse']['carried_shards']} of {summary['shards']['planned']} shards carried over",
        f"  checks      {told}",
        f"  published   {'yes' if summary['published'] else 'NO'}: {summary['data']}",
    ]
    return "\n".join([*lines, *(f"  reason      {reason}" for reason in summary["reasons"])])


def add_report(run: DerivedRun, outcome: Outcome, summary: dict[str, Any]) -> None:
    """Store report.html, and name it in the summary. A failed report is a warning: it must not fail a finished job."""
    try:
        run.store.put(run.paths.report, _page(outcome, summary).encode())
        summary["report"] = {"page": run.paths.report}
        log.info("report: %s", run.store.uri_of(run.paths.report))
    except Exception as error:  # noqa: BLE001 - as the docstring says
        log.warning("no report of run %s: %s: %s", run.run_id, type(error).__name__, error)


def _page(outcome: Outcome, summary: Mapping[str, Any]) -> str:
    state = "published" if summary["published"] else "not published"
    title = html.escape(f"{summary['job']} {summary['run_id']}: {state}")
    rows = [
        (name, value) for name, value in summary.items() if isinstance(value, str | int | float) and name != "code_version"
    ]
    figures = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td>{html.escape(_figure(value))}</td></tr>" for name, value in rows
    )
    checks = "".join(
        f"<tr><th scope=row>{html.escape(check['name'])}</th><td class={'good' if check['ok'] else 'bad'}>"
        f"{'passed' if check['ok'] else html.escape(check['reason'])}</td></tr>"
        for check in summary["gate"]
    )
    sections = [
        *outcome.report,
        ("Checks", f"<table>{checks}</table>"),
        ("All figures", f"<details><summary>{len(rows)} figures</summary><table>{figures}</table></details>"),
    ]
    body = "".join(f"<section class=broad><h2>{html.escape(name)}</h2>{content}</section>" for name, content in sections)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    tone = "good" if summary["published"] else "bad"
    reasons = "".join(f"<p>{html.escape(reason)}</p>" for reason in summary["reasons"])
    return (
        f'<!doctype html><html lang="en"><head>{head}{view}<style>{STYLE}</style></head><body>'
        f"<header class={tone}><h1>{title}</h1>{reasons}</header><main>{body}</main></body></html>"
    )


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.6g}"

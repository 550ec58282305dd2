"""When report.html is stored, and that nothing about it ever decides about a run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.planning.run import Run
from jobs.report import page as page_module
from jobs.report import write as write_module
from jobs.report.write import add_report, report_abort
from jobs.state.ledger import Ledger
from tests.jobs.report_samples import planned_run, summary_of, timed
from workers.errors import RunAborted
from workers.records.shard import Receipt

ABORT = RunAborted("no document was embedded anywhere for 1800 s; look at the replicas' logs")


@pytest.fixture
def begun(tmp_path: Path, minilm: Path) -> Run:
    run = planned_run(tmp_path, minilm, price=1.0)
    return run.begin("float32", None, 4096, predicted={"tokens": 1234})


def _receipts(run: Run) -> dict[int, Receipt]:
    return {shard.number: timed(shard.number, "replica-0", 10.0 * (shard.number + 1)) for shard in run.shards}


def _stored(run: Run) -> Path:
    return Path(run.store.uri_of(run.paths.report))


def test_it_is_stored_next_to_the_summary(begun: Run) -> None:
    receipts = _receipts(begun)
    summary = summary_of(receipts, run_id=begun.run_id)
    add_report(begun, receipts, summary)
    assert f"<title>Published: run {begun.run_id}</title>" in _stored(begun).read_text()
    assert _stored(begun).parent == Path(begun.store.uri_of(begun.paths.summary)).parent
    assert summary["report"]["page"] == f"runs/{begun.run_id}/report.html"
    assert summary["report"]["rows"]["embedded"] == 100 * len(receipts)
    assert summary["report"]["forecasts"]["tokens"] == {"predicted": 1234, "actual": 700 * len(receipts)}
    assert json.loads(json.dumps(summary)) == summary


def test_a_failure_to_draw_is_a_warning(
    begun: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(page_module, "render_page", fail)
    receipts = _receipts(begun)
    summary = summary_of(receipts)
    with caplog.at_level(logging.WARNING, "reembed"):
        add_report(begun, receipts, summary)
        report_abort(begun, ABORT)
    assert summary == summary_of(receipts)
    assert caplog.text.count(f"no report of run {begun.run_id}: RuntimeError: no fonts here") == 2
    assert not _stored(begun).exists()


def test_an_aborted_run_tells_what_it_had_done(begun: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = dict(list(_receipts(begun).items())[:2])
    with Ledger(begun.store, begun.run_id) as ledger:
        for receipt in done.values():
            ledger.record(receipt)
    report_abort(begun, ABORT)
    page = _stored(begun).read_text()
    assert "Aborted.</span> Not published: no document was embedded anywhere for 1800 s" in page
    assert f"Run the same command again: 2 of {len(begun.shards)} shards are done" in page
    assert begun.summary() == {}, "how a run ended is the summary's to say, and this one has not"

    _stored(begun).unlink()
    monkeypatch.setattr(write_module, "ABORTED_SHARDS", 1)
    report_abort(begun, ABORT)
    assert not _stored(begun).exists()


def test_a_run_that_never_began_has_none(tmp_path: Path, minilm: Path) -> None:
    run = planned_run(tmp_path, minilm)
    report_abort(replace(run), ABORT)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.html"))

"""Made-up runs for the tests of the report: receipts with times, a summary as jobs/report/summary.py makes it, a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.config import parse_config
from jobs.planning.choose_run import plan_or_reopen
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from jobs.report.facts import ReportFacts, gather_facts
from jobs.report.summary import Ending, RunFacts, build_summary
from jobs.state.accounting import Work, totals
from jobs.state.quarantine_reasons import Reason, Reasons
from jobs.state.records import RunState
from tests.jobs.ledger_samples import RUN, receipt, shard
from workers.records.shard import Receipt, Shard

NOON = 1_795_176_000.0
HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x>"
WORDS = "the quick brown fox jumps over the lazy dog "
STAGES = {"read": 0.5, "tokenize": 1.0, "encode": 8.0, "wait": 0.2, "write": 0.3}


def timed(number: int, replica: str, ended: float, seconds: float = 10.0, **changes: Any) -> Receipt:
    """100 documents, 700 tokens in 800 positions, ended so many seconds after noon."""
    sample = replace(
        receipt(number, documents=100, replica=replica), ended=NOON + ended, seconds=seconds, stage_seconds=STAGES
    )
    return replace(sample, token_histogram=(10, 60, 30, *[0] * 9), **changes)


def steady(shards: int, replicas: int) -> dict[int, Receipt]:
    """Every replica ends a shard every ten seconds."""
    return {
        number: timed(number, f"replica-{number % replicas}", 10.0 * (number // replicas + 1)) for number in range(shards)
    }


def shards_of(receipts: Mapping[int, Receipt]) -> list[Shard]:
    return [shard(number, item.rows_read) for number, item in receipts.items()]


def summary_of(receipts: Mapping[int, Receipt], **changes: Any) -> dict[str, Any]:
    sums = totals(receipts)
    model = {"name": f"s3://models/{HOSTILE}", "pooling": "mean", "dim": 384, "vector": "float32", "max_tokens": 256}
    facts = {"model": model, "fingerprint": "f" * 64, "int8_scale": None}
    summary = build_summary(
        RunFacts(RUN, f"s3://bucket/out/data/{RUN}", len(receipts), facts, 2.5),
        Ending(RunState.COMPLETE, sums.quarantined_rows, published=True),
        sums,
        Work(
            attempts=len(receipts), documents_embedded=sums.documents + 7, seconds=3661.0, busy_seconds=6000.0,
            replica_seconds=7200.0, peak_memory_bytes=987_654_321,
        ),
    )  # fmt: skip
    return summary | changes


def facts_of(receipts: Mapping[int, Receipt], summary: Mapping[str, Any] | None = None, **changes: Any) -> ReportFacts:
    given: dict[str, Any] = {
        "shards": shards_of(receipts),
        "receipts": receipts,
        "summary": summary or summary_of(receipts),
        "reasons": Reasons((Reason(f"text is null {HOSTILE}", 41, 1, f"s3://corpus/{HOSTILE}, row 7"),), kinds=1),
        "predicted": {"tokens": 12_345, "replica_hours": 1.5, "cost_usd": None},
    }
    return gather_facts(**(given | changes))


def planned_run(folder: Path, model: Path, price: float | None = None) -> PlannedRun:
    """400 documents in four JSONL objects, cut into shards; not yet begun."""
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for part in range(4):
        lines = [json.dumps({"id": f"{part}-{row}", "text": WORDS * 4}) + "\n" for row in range(100)]
        (corpus / f"{part}.jsonl").write_text("".join(lines))
    config = parse_config(
        {
            "corpus": {"uri": str(corpus), "id": "id"},
            "model": {"name": str(model)},
            "output": {"uri": str(folder / "out")},
            "run": {"shard_bytes": 20_000},
            "cost": {"gpu_hour_usd": price},
        },
        "test",
    )
    run = plan_or_reopen(Request.resolve(config))
    assert isinstance(run, PlannedRun)
    return run

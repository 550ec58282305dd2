"""Published outputs of `dedup`, as its job leaves them: program and last pass in this process, then published."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.dedup.config import DedupConfig
from jobs.dedup.job import DedupJob
from jobs.driver.lock import DriverLock
from jobs.passes.in_process import InProcess
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from jobs.publish.publish import Snapshot, publish
from jobs.state.ledger import Ledger
from jobs.state.manifest import save_manifest
from jobs.state.records import JOB, RunRecord, create_run, new_run_id, write_summary
from tests.vector_snapshots import MemoryJournal
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.vectors.derived import DerivedStamp
from workers.vectors.worker import VectorWorker, WorkerSettings


def publish_dedup(snapshot: str | Path, output: str | Path, **settings: Any) -> dict[str, Any]:
    """Its summary."""
    source, store = SourceSnapshot.open(str(snapshot), {}, "dedup.snapshot"), Store(str(output), {})
    config = DedupConfig.model_validate({"dedup": {"snapshot": str(snapshot), **settings}, "output": {"uri": str(output)}})
    job = DedupJob(config)
    columns = job.check(source)
    run = new_run_id("dedup", datetime.now(UTC))
    stamp = DerivedStamp(run, "dedup", source.run_id, source.uri)
    numbers = [shard.number for shard in source.shards]
    worker = VectorWorker(
        WorkerSettings(
            source.uri, str(output), source.schema, stamp, "dedup", columns, source.first_rows, numbers, 1 << 30, True
        ),
        "test",
    )
    executor = InProcess(worker, 1, 1, lambda: None)
    outcome = job.program(Passes(source, executor, MemoryJournal()), None)
    save_manifest(store, RunPaths(run).manifest, source.shards, "dedup")
    record = dataclasses.replace(source.run.record, run_id=run, fingerprint="dedup", extra={JOB: "dedup"})
    assert isinstance(record, RunRecord)
    create_run(store, record)
    receipts: list[Receipt] = []
    assert outcome.step is not None
    executor.write(outcome.step, source.shards, receipts.append)
    worker.close()
    with Ledger(store, run) as ledger:
        for receipt in receipts:
            ledger.record(receipt)
    files = [file for receipt in receipts for file in receipt.files]
    with DriverLock(store) as lock:
        assert publish(Snapshot(store, run, files, dict(outcome.facts)), lock) is None
    summary = {"run_id": run, "state": "complete", "published": True, **outcome.facts}
    write_summary(store, run, summary)
    return summary

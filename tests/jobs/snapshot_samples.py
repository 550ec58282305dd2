"""Finished runs on storage, small and whole: manifest, receipts, real Parquet parts with their footers, summary.

make_run     what `embed` leaves, made without a model; published or refused
read_rows    what a reader gets who goes by CURRENT.json: ids, and the model that each footer names
Mortal       a store that dies at its n-th change
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config import parse_config
from jobs.driver.lock import DriverLock
from jobs.publish.publish import Snapshot, publish
from jobs.state.ledger import Ledger
from jobs.state.manifest import save_manifest
from jobs.state.records import RunRecord, config_snapshot, create_run, write_summary
from tests.jobs.ledger_samples import receipt, shard
from workers.records.shard import OutputFile, Receipt
from workers.storage.store import Store
from workers.table.paths import CURRENT, RunPaths

ROWS = 10  # of a shard


def run_id(day: int) -> str:
    return f"202611{day:02d}T020000Z-{day:08x}"


def make_run(
    store: Store, day: int, model: str = "m", *, shards: int = 2, state: str = "complete", done: int | None = None,
    lost: Sequence[int] = (), reasons: Sequence[str] = (), public: bool | None = None,
) -> str:  # fmt: skip
    """A run of that day; `done` of its shards have a receipt, `lost` ones are quarantined whole. Complete ones are published
    as `embed` does, unless `public` is False; those that are refused or running are not."""
    run = run_id(day)
    paths = RunPaths(run)
    manifest = save_manifest(store, paths.manifest, [shard(number) for number in range(shards)], f"f-{model}")
    record = RunRecord(
        run_id=run,
        fingerprint=f"f-{model}",
        source_fingerprint=f"source {day}",
        config=config_snapshot(parse_config({"corpus": {"uri": "c/"}, "output": {"uri": "o/"}}, "test")),
        plan={},
        model={"name": model, "pooling": "mean", "dim": 4, "vector": "float32", "precision": "float32"},
        shards=shards,
        rows=shards * ROWS,
        code_version="0.1",
        created=f"2026-11-{day:02d}T02:00:00+00:00",
        int8_scale=day / 100,
    )
    create_run(store, record)
    receipts = [_part(store, run, item.number, model) for item in manifest[:done] if item.number not in lost]
    with Ledger(store, run) as ledger:
        for item in receipts:
            ledger.record(item)
    store.put(paths.staged(0), b"{}")
    store.put(f"{paths.quarantine}/shard-0000000.parquet", b"rows")
    store.put(paths.status, b"{}")
    if state == "running":
        return run
    documents = ROWS * len(receipts)
    summary: dict[str, Any] = {
        "run_id": run, "state": state, "published": False, "reasons": list(reasons), "documents": documents,
        "rows": documents, "quarantined_rows": ROWS * len(lost),
        "quarantined_shards": {str(number): "why" for number in lost},
        "output_bytes": sum(file.bytes for item in receipts for file in item.files), **record.facts(),
    }  # fmt: skip
    store.put(f"{paths.root}/report.html", b"<html>")
    if state == "complete" and public is not False:
        with DriverLock(store) as lock:
            files = [file for item in receipts for file in item.files]
            facts = record.facts() | {"documents": documents}
            assert publish(Snapshot(store, run, files, facts), lock) is None
        summary |= {"published": True}
    write_summary(store, run, summary)
    return run


def _part(store: Store, run: str, number: int, model: str) -> Receipt:
    rows = {"id": [f"{number}-{row}" for row in range(ROWS)], "embedding": [[1.0, 0.0, 0.0, 0.0]] * ROWS}
    table = pa.table(rows).replace_schema_metadata({"reembed.model": model, "reembed.run_id": run})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    data = sink.getvalue()
    file = OutputFile(f"data/{run}/lang=de/part-{number:07d}.parquet", ROWS, len(data), "", "")
    store.put(file.path, data)
    return replace(receipt(number, ROWS), files=(file,))


def current(store: Store) -> dict[str, Any]:
    return dict(json.loads(store.read(CURRENT)))


def read_rows(store: Store) -> tuple[str, set[str], list[str]]:
    """(run id by CURRENT.json, models by the footers, ids): what a reader gets who opens CURRENT.json and its folder."""
    told = current(store)
    models, ids = set(), list[str]()
    for path in sorted(store.list(told["data_path"])):
        table = pq.read_table(pa.BufferReader(store.read(path)))
        models.add(table.schema.metadata[b"reembed.model"].decode())
        ids += table.column("id").to_pylist()
    return told["run_id"], models, ids


def everything(store: Store) -> dict[str, bytes]:
    """All files but the lock's."""
    return {path: store.read(path) for path in store.list("") if not path.startswith(("runs/lock/", "runs/probe/"))}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Mortal(Store):
    """Dies at its n-th change of storage once armed, before or after it took effect."""

    def __init__(self, uri: str | Path, survive: int = 1 << 30, *, after: bool = False) -> None:
        super().__init__(str(uri), {})
        self.left, self.after, self.armed = survive, after, False
        self.changes = 0

    def put(self, path: str, data: bytes) -> None:
        self._change(path, lambda: super(Mortal, self).put(path, data))

    def delete(self, path: str) -> None:
        self._change(path, lambda: super(Mortal, self).delete(path))

    def prune(self, prefix: str) -> None:
        self._change(prefix, lambda: super(Mortal, self).prune(prefix))

    def _change(self, path: str, change: Callable[[], None]) -> None:
        if path.startswith("runs/lock/"):
            change()
            return
        if self.armed:
            self.changes += 1
            self.left -= 1
        dies = self.armed and self.left < 0
        if not dies or self.after:
            change()
        if dies:
            raise Killed

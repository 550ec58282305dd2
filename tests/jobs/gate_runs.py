"""Finished runs on storage, written by the real writer, for the gate to judge: parts, receipts, manifest, run.json."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config import GateConfig
from jobs.publish.gate.checks import GateCheck
from jobs.publish.gate.judge import judge
from jobs.state.accounting import audit, totals
from jobs.state.current import Current
from jobs.state.ledger import Ledger
from jobs.state.manifest import save_manifest
from jobs.state.records import RunRecord, create_run
from jobs.state.stored_run import StoredRun
from tests.workers.output_samples import INT8_SCALE, rows, schema, write
from workers.records.shard import ObjectSlice, Receipt, Shard
from workers.storage.store import Store
from workers.table.paths import CURRENT, RunPaths
from workers.table.schema import OutputSchema
from workers.table.vectors import to_arrow

LAST, NOW = "20261119T100312Z-1a2b3c4d", "20261120T100312Z-1a2b3c4d"
Floats = np.ndarray[Any, np.dtype[np.float32]]
Vectors = Callable[[int, int], Floats]  # number of the first text, how many -> [N, dim]


def of_texts(dim: int = 16) -> Vectors:
    """Unit vectors that are a function of the text, as a model's are, and have a mean."""

    def vectors(start: int, count: int) -> Floats:
        each = [np.random.default_rng(number).standard_normal(dim) for number in range(start, start + count)]
        return _unit(np.asarray(each) / np.sqrt(dim) + np.eye(dim)[0] / 2)

    return vectors


def noise(dim: int = 16) -> Vectors:
    return lambda start, count: _unit(np.random.default_rng(start + 77777).standard_normal((count, dim)))


def _unit(vectors: Any) -> Floats:
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass
class MadeRun:
    """A run with nothing pending. Receipts may be altered before it is judged."""

    store: Store
    record: RunRecord
    shards: list[Shard]
    receipts: dict[int, Receipt]

    @property
    def stored(self) -> StoredRun:
        return StoredRun.in_memory(self.store, self.record, self.shards, self.receipts)

    def publish(self) -> None:
        paths = RunPaths(self.record.run_id)
        total = sum(receipt.rows for receipt in self.receipts.values())
        facts = {"model": self.record.model, "documents": total}
        self.store.put(CURRENT, Current(self.record.run_id, "", paths.data, total, "now", "0", facts=facts).to_json())

    def judge(self, limit: int = 0, **gate: Any) -> dict[str, GateCheck]:
        accounting = audit(self.shards, self.receipts, ())
        config = GateConfig(**gate)
        checks = judge(self.stored, totals(self.receipts), accounting, config, limit)
        return {check.name: check for check in checks}


def made_run(
    folder: Path, run_id: str, vectors: Vectors, *, shards: int = 4, texts: int = 40, first: int = 0, **stamp: Any
) -> MadeRun:
    """`texts` a shard, numbered from `first` on; shard n is made of the object n."""
    store, shape = Store(str(folder / "out"), {}), schema(run_id=run_id, **{"int8_scale": INT8_SCALE, **stamp})
    receipts, cut = {}, []
    for number in range(shards):
        start = first + number * texts
        piece = ObjectSlice(f"s3://corpus/{number}", 100, "e", 0, 100, rows=texts)
        cut.append(Shard(number, (piece,), 1000))
        spool = folder / f"spool-{uuid.uuid4().hex[:8]}"
        spool.mkdir()
        receipts[number] = write(store, shape, [_table(shape, start, texts, vectors)], spool, shard=number)
    facts = asdict(shape.stamp)
    beside = ("run_id", "model", "int8_scale", "code_version", "int8_scales", *([] if facts["vectors"] else ["vectors"]))
    model = {name: facts[name] for name in facts if name not in beside}
    record = RunRecord(
        run_id=run_id,
        fingerprint="f",
        source_fingerprint="s",
        config={"model": {"chunk_overlap": 64}},
        plan={},
        model={name: value if isinstance(value, bool | int | None) else str(value) for name, value in model.items()},
        shards=shards,
        rows=shards * texts,
        code_version="0",
        created="now",
        int8_scale=shape.stamp.int8_scale,
    )
    save_manifest(store, RunPaths(run_id).manifest, cut, "f")
    create_run(store, record)
    with Ledger(store, run_id) as ledger:
        for receipt in receipts.values():
            ledger.record(receipt)
    return MadeRun(store, record, cut, receipts)


def rewritten(run: MadeRun, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """A shard's part replaced by another with the receipt to it: nothing but the rows tells."""
    (file,) = run.receipts[number].files
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(run.store.read(file.path)))), sink)
    run.store.put(file.path, sink.getvalue())
    run.receipts[number] = replace(run.receipts[number], files=(replace(file, bytes=len(sink.getvalue())),))


def _table(shape: OutputSchema, start: int, count: int, vectors: Vectors) -> pa.Table:
    table = rows(shape, count, start=start)
    if shape.lists:
        return table
    column, _ = to_arrow(vectors(start, count), shape.stamp.vector, INT8_SCALE)
    return table.set_column(table.schema.get_field_index("embedding"), shape.rows.field("embedding"), column)

"""Published snapshots of given vectors, without a model, and passes over them in this process, without Ray.

publish_vectors     ids, vectors, texts and kept columns -> an OUTPUT as `reembed embed` leaves it
passes_over         a Passes over its snapshot, with a journal in memory
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config import parse_config
from jobs.driver.lock import DriverLock
from jobs.passes.in_process import InProcess
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from jobs.publish.open_snapshot import open_published
from jobs.publish.publish import Snapshot, publish
from jobs.state.ledger import Ledger
from jobs.state.manifest import save_manifest
from jobs.state.records import RunRecord, config_snapshot, create_run, new_run_id, plan_to_json, write_summary
from tests.workers.output_samples import INT8_SCALE, append, draft_for, plan, stamp
from workers.config import Pooling, VectorColumn, VectorType
from workers.host.spill_file import own_spill_folder
from workers.records.documents import text_hash
from workers.records.shard import Assignment, ObjectSlice, Shard
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.representations import derived, told, vector_formats, with_scales
from workers.table.schema import output_schema
from workers.table.vectors import to_arrow, to_arrow_lists
from workers.vectors.derived import DerivedStamp
from workers.vectors.step import Partial
from workers.vectors.worker import VectorWorker, WorkerSettings
from workers.writing.writer import PART_BYTES, ShardWriter


def publish_vectors(
    output: str | Path,
    vectors_ND: np.ndarray[Any, Any],
    *,
    ids: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    keep: Mapping[str, pa.Array] | None = None,
    shards: int = 4,
    vector: VectorType = VectorType.FLOAT32,
    partition_by: Sequence[str] = (),
    part_bytes: int = PART_BYTES,
    counts: Sequence[int] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    beside: Sequence[Mapping[str, Any]] = (),
    **stamped: Any,
) -> str:
    """A published run of one row a vector, cut evenly into shards. Returns its run id.

    Args:
        ids: `0`, `1`, ... by default. texts: the ids by default; only their hashes are stored, as by `embed`.
        keep: kept columns by name.
        counts: vectors of each row, as with pooling=tokens; then `vectors_ND` are the rows' vectors end to end.
        tokens: their strings.
        beside: entries of output.vectors beside `embedding`, which has all components.
        stamped: changes of the stamp, e.g. weights_digest.
    """
    store, count = Store(str(output), dict(storage_options or {})), len(vectors_ND if counts is None else counts)
    ids = list(ids or map(str, range(count)))
    columns = dict(keep or {})
    run = new_run_id("test", datetime.now(UTC))
    if counts is not None:
        stamped = {"pooling": Pooling.TOKENS.value} | stamped
    read_plan = plan({name: cells.type for name, cells in columns.items()})
    dim, own_scale = vectors_ND.shape[1], INT8_SCALE if vector == "int8" else None
    entries = [{"name": "embedding", "type": vector.value}, *beside]
    formats = vector_formats([VectorColumn.model_validate(entry) for entry in entries], dim)
    scales = {form.column: INT8_SCALE for form in formats[1:] if form.vector == "int8"}
    formats = with_scales(formats, scales | {"embedding": own_scale})
    several = dict(zip(("vectors", "int8_scales"), told(formats), strict=True))
    made = stamp(run_id=run, dim=dim, vector=vector, int8_scale=own_scale, **several, **stamped)
    shape = output_schema(read_plan, made, partition_by)
    cells: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "num_tokens": pa.array([1] * count, pa.int32()),
        "truncated": pa.array([False] * count),
        "text_hash": pa.array([text_hash(text) for text in texts or ids], pa.binary(16)),
        "embedding": to_arrow(vectors_ND, vector, INT8_SCALE)[0]
        if counts is None
        else to_arrow_lists(vectors_ND, np.array(counts), vector, INT8_SCALE)[0],
        "tokens": pa.array([list(row) for row in tokens or ()] or [["token"] * number for number in counts or ()]),
        **columns,
    }
    for form in formats[1:]:
        cells[form.column] = to_arrow(derived(vectors_ND, form, normalize=True), form.vector, form.int8_scale)[0]
    table = pa.Table.from_arrays([cells[name] for name in shape.rows.names], schema=shape.rows)
    ends = np.linspace(0, count, shards + 1).astype(int)
    planned = [
        Shard(number, (ObjectSlice(f"corpus/{number}", 1, "", 0, 1, int(ends[number + 1] - ends[number])),), 1)
        for number in range(shards)
    ]
    save_manifest(store, RunPaths(run).manifest, planned, "settings")
    facts = {name: getattr(made, name) for name in (
        "revision", "weights_digest", "tokenizer_digest", "pooling", "normalize", "precision", "prompt", "dim", "max_tokens",
    )}  # fmt: skip
    where: dict[str, Any] = {"uri": str(output), "partition_by": list(partition_by)}
    where |= {"vectors": entries} if beside else {"vector": vector.value}
    raw = {
        "corpus": {"uri": "corpus/", "keep": list(columns)},
        "output": where,
    } | ({"model": {"name": made.model}} if "model" in stamped else {})
    record = RunRecord(
        run_id=run,
        fingerprint="settings",
        source_fingerprint=hashlib.sha256(vectors_ND.tobytes()).hexdigest(),
        config=config_snapshot(parse_config(raw, "test")),
        plan=plan_to_json(read_plan),
        model=facts
        | {"name": made.model, "vector": vector.value, "long_text": made.long_text.value}
        | ({"vectors": made.vectors} if beside else {}),
        shards=shards,
        rows=count,
        code_version="test",
        created=datetime.now(UTC).isoformat(),
        int8_scale=made.int8_scale,
        extra={"nullable_elements": False} | ({"int8_scales": scales} if scales else {}),
    )
    create_run(store, record)
    receipts = []
    for number in range(shards):
        task = Assignment(planned[number], 1, 1)
        writer = ShardWriter(store, task, shape, own_spill_folder(), part_bytes=part_bytes)
        piece = table.slice(ends[number], ends[number + 1] - ends[number])
        append(writer, shape, piece)
        receipts.append(writer.finish(draft_for(task, len(piece))))
    with Ledger(store, run) as ledger:
        for receipt in receipts:
            ledger.record(receipt)
    files = [file for receipt in receipts for file in receipt.files]
    with DriverLock(store) as lock:
        assert publish(Snapshot(store, run, files, record.facts() | {"documents": count}), lock) is None
    summary = {"run_id": run, "state": "complete", "published": True, "reasons": [], "documents": count, "rows": count}
    write_summary(store, run, summary | {"quarantined_rows": 0, "output_bytes": 0} | record.facts())
    return run


def publish_next(output: str | Path, changed: Mapping[int, np.ndarray[Any, Any]]) -> str:
    """The next night: a new run whose other shards' parts are copies, as `embed` carries them over. Returns its run id.

    `changed`: shard -> new vectors [rows of the shard, D] of the same ids; one part a shard, without partitions.
    """
    store = Store(str(output), {})
    before = open_published(str(output))
    run = new_run_id("next", datetime.now(UTC) + timedelta(seconds=1))
    save_manifest(store, RunPaths(run).manifest, list(before.shards), "settings")
    create_run(store, dataclasses.replace(before.record, run_id=run, source_fingerprint=run))
    shape = output_schema(before.plan, dataclasses.replace(before.stamp, run_id=run), ())
    receipts = []
    for number, receipt in before.receipts.items():
        file = receipt.files[0]
        data = store.read(file.path)
        if number in changed:
            table = pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
            cells = to_arrow(changed[number], before.stamp.vector, before.stamp.int8_scale)[0]
            table = table.set_column(table.column_names.index("embedding"), "embedding", cells).cast(shape.rows)
            task = Assignment(before.shards[number], 1, 1)
            writer = ShardWriter(store, task, shape, own_spill_folder())
            append(writer, shape, table)
            receipts.append(writer.finish(draft_for(task, len(table))))
        else:
            path = file.path.replace(before.run_id, run)
            store.put(path, data)
            receipts.append(dataclasses.replace(receipt, files=(dataclasses.replace(file, path=path),)))
    with Ledger(store, run) as ledger:
        for made in receipts:
            ledger.record(made)
    files = [file for made in receipts for file in made.files]
    facts = before.record.facts() | {"documents": sum(file.rows for file in files)}
    with DriverLock(store) as lock:
        assert publish(Snapshot(store, run, files, facts), lock) is None
    return run


class MemoryJournal:
    """Keeps everything, and compares steps as the stored one does."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[str, str, Partial]] = {}

    def read(self, place: int, name: str, digest: str) -> Partial | None:
        found = self.kept.get(place)
        return found[2] if found is not None and found[:2] == (name, digest) else None

    def write(self, place: int, name: str, digest: str, value: Partial) -> None:
        self.kept[place] = (name, digest, value)


@contextmanager
def passes_over(
    output: str | Path,
    columns: Sequence[str] = (),
    *,
    threads: int = 1,
    journal: MemoryJournal | None = None,
    cache_bytes: int = 1 << 30,
    work: str | Path | None = None,
    divide: Callable[[SourceSnapshot], Sequence[Shard]] | None = None,
    made: Callable[[VectorWorker], None] = lambda _: None,
) -> Iterator[Passes]:
    """Passes over a snapshot.

    Args:
        columns: of the snapshot, that steps read.
        work: the output of the derived run, for steps that write scratch.
        divide: into shards; None: those of the snapshot.
        made: told the worker.
    """
    source = SourceSnapshot.open(str(output), {}, "snapshot")
    if divide is not None:
        source = source.divided(divide(source))
    target = str(work or f"{output}.work")
    stamped = DerivedStamp("20260101T000000Z-00000000", "test", source.run_id, source.uri)
    numbers = [shard.number for shard in source.shards]
    settings = WorkerSettings(
        str(output), target, source.schema, stamped, "test", tuple(columns), source.first_rows, numbers, cache_bytes, True
    )
    worker = VectorWorker(settings, "test")
    made(worker)
    try:
        yield Passes(source, InProcess(worker, threads, 1, lambda: None), journal or MemoryJournal())
    finally:
        worker.close()

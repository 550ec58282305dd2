"""`reembed load`: brings a table of a vector store to the published snapshot, change set by change set.

    1. which set    the consumer's next one (jobs/commands/changes.py); refused before anything is written if the store
                    holds another snapshot than the consumer, or rows of another kind
    2. apply        begin, deletes, upserts, patches; stores are in jobs/commands/stores/
    3. check        as many rows as the snapshot has, else no commit
    4. commit       the store says which snapshot it holds
    5. acknowledge  the consumer has it

Killed anywhere, the same command goes on: until 4 the store holds the snapshot before, or says that it lies between the
two, and the same set is applied again; between 4 and 5 only 5 is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from jobs.commands.changes import acknowledge, find_changes
from jobs.commands.stores.lancedb import LanceTable
from jobs.commands.stores.milvus import Milvus
from jobs.commands.stores.opensearch import Elasticsearch, OpenSearch
from jobs.commands.stores.pgvector import PgVector
from jobs.commands.stores.qdrant import Qdrant
from jobs.commands.stores.store import TABLE, Shape, State, VectorStore, kind_of, loaded_columns
from jobs.publish.consumers import Consumer, Consumers, checked
from jobs.publish.open_snapshot import open_store
from jobs.state.current import read_current
from jobs.state.stored_run import StoredRun
from workers.errors import RunAborted, UsageError
from workers.host.spill_file import own_spill_folder
from workers.storage.store import Store
from workers.storage.uris import public_line, redact
from workers.table.part_file import open_part
from workers.table.schema import EMBEDDING, OutputSchema

STORES: dict[str, Callable[[str, str], VectorStore]] = {
    "pgvector": PgVector,
    "lancedb": LanceTable,
    "qdrant": Qdrant,
    "milvus": Milvus,
    "opensearch": OpenSearch,
    "elasticsearch": Elasticsearch,
}


def load_snapshot(kind: str, output: str, where: str, table: str, consumer: str | None = None) -> dict[str, Any]:
    """The report of the change set, with the store, its seconds and the rows that it holds.

    Args:
        kind: a name of STORES. where: the database: what it means is each store's.
        consumer: whom the snapshot is kept for; by default `<kind>-<table>`.
    Raises:
        UsageError: nothing was written. RunAborted: the store failed, or holds other rows than the snapshot; the same
        command goes on. LockHeld, TransientError.
    """
    if kind not in STORES:
        raise UsageError(f"load {kind[:40]}: no store of that name; known: {', '.join(STORES)}")
    if not TABLE.fullmatch(table):
        raise UsageError(f"--table {table[:60]!r}: up to 48 small letters, digits and _, the first a letter")
    name = checked(consumer or f"{kind}-{table}")
    began = time.monotonic()
    outputs, _ = open_store(output)
    known = Consumers(outputs).read(name) or Consumer(name)
    run_id, shape = _target(outputs, known)
    with contextlib.closing(STORES[kind](where, table)) as store:
        with _told(kind, store, table):
            state = store.state()
            _require(state, known, run_id, f"{kind} table {table}")
            store.check(shape)
        with _change_set(output, name, run_id) as report, _told(kind, store, table):
            rows = _apply(store, report, shape, state)
        acknowledge(output, name, run_id)
    done: dict[str, Any] = {"acknowledged": run_id, "handed": None, "files": []}
    told = {"store": kind, "table": table, "rows_in_store": rows, "seconds": round(time.monotonic() - began, 3)}
    return report | done | told


def load_text(report: dict[str, Any]) -> str:
    """For people."""
    if report["from"] == report["to"]:
        return f"{report['store']} table {report['table']} has {report['to']} already ({report['rows_in_store']:,} rows)"
    counts = ", ".join(f"{report[name]:,} {name}" for name in ("added", "changed", "patched", "deleted"))
    return (
        f"{report['store']} table {report['table']}: {report['from'] or 'nothing'} -> {report['to']} "
        f"in {report['seconds']:.1f} s\n"
        f"  {counts}; {report['rows_in_store']:,} rows"
    )


def _target(outputs: Store, known: Consumer) -> tuple[str, Shape]:
    """The snapshot that the consumer was given, or the published one; and its rows. Raises: UsageError."""
    current = read_current(outputs)
    if current is None:
        raise UsageError(f"{redact(outputs.uri)}: nothing is published there; run `reembed embed` first, or correct the uri")
    run_id = known.handed or current.run_id
    run = StoredRun.open(outputs, run_id)
    if run is None:
        raise UsageError(
            f"snapshot {run_id} is no more; `reembed changes --consumer {known.name} --forget`, and an empty --table"
        )
    if run.job not in (None, "reduce"):
        raise UsageError(f"{redact(outputs.uri)}: the output of `reembed {run.job}`, which holds no vectors")
    return run_id, shape_of(run.schema)


def shape_of(schema: OutputSchema) -> Shape:
    """Raises: UsageError: several vectors a row, or sparse ones."""
    if schema.sparse:
        raise UsageError("the snapshot holds sparse vectors (model.pooling: sparse): `reembed load` writes dense ones alone")
    if schema.lists:
        raise UsageError(f"{EMBEDDING} is a list of vectors: no store of `reembed load` takes several vectors a row")
    stamp = schema.stamp
    return Shape(stamp.dim, stamp.vector, stamp.normalize, loaded_columns(schema.rows, schema.vectors))


def _require(state: State, known: Consumer, run_id: str, place: str) -> None:
    """Raises: UsageError: the set leads from another snapshot than the store holds."""
    if state.run_id == run_id:
        return
    mend = f"name its own --consumer, or drop it, `reembed changes --consumer {known.name} --forget`, and load again"
    if state.run_id != known.acknowledged:
        raise UsageError(
            f"{place} holds {state.run_id or 'nothing'}, and consumer {known.name} has "
            f"{known.acknowledged or 'nothing'}: {mend}"
        )
    if state.loading not in (None, run_id):
        raise UsageError(
            f"{place} lies between {state.run_id or 'nothing'} and {state.loading}, and the set is of {run_id}: {mend}"
        )


@contextlib.contextmanager
def _change_set(output: str, consumer: str, run_id: str) -> Iterator[dict[str, Any]]:
    """The report, whose files are there within the block."""
    folder = tempfile.mkdtemp(prefix="load-", dir=own_spill_folder())
    try:
        yield find_changes(output, to_run=run_id, into=folder, consumer=consumer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _apply(store: VectorStore, report: dict[str, Any], shape: Shape, state: State) -> int:
    """Returns the rows that the store holds. Raises: RunAborted: they are not as many as the snapshot's."""
    run_id = report["to"]
    if report["shared_keys"]:
        raise RunAborted(
            f"{report['shared_keys']:,} ids occur more than once in snapshot {run_id}: a store by key cannot hold its rows; "
            "make the ids unique in the source"
        )
    if state.run_id == run_id:
        return _counted(store, report)
    store.begin(run_id, shape)
    for file in report["files"]:
        rows = _rows_of(file)
        if len(rows):
            {"delete": store.delete, "upsert": store.upsert, "patch": store.patch}[kind_of(rows)](rows)
    count = _counted(store, report)
    store.commit(run_id)
    return count


def _rows_of(file: str) -> pa.Table:
    """Raises: PartDamaged."""
    folder, name = os.path.split(file)
    with open_part(Store(folder, {}), name) as part:
        return pa.Table.from_batches(part.batches(max(1, part.rows)), part.schema)


def _counted(store: VectorStore, report: dict[str, Any]) -> int:
    count = store.count()
    if count != report["rows"]:
        raise RunAborted(
            f"the store would hold {count:,} rows, snapshot {report['to']} has {report['rows']:,}: an id occurs twice "
            "(`reembed changes --whole` finds it), or another program wrote to the table"
        )
    return count


@contextlib.contextmanager
def _told(kind: str, store: VectorStore, table: str) -> Iterator[None]:
    """What the store's library raises, in one line."""
    try:
        yield
    except store.errors as error:
        reason = public_line(f"{type(error).__name__}: {error}")
        raise RunAborted(f"load {kind}, table {table}: {reason}; the same command goes on") from error

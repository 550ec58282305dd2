"""The table follows CURRENT.json: `output.table`.

    FollowingTable.prepare   before CURRENT.json is replaced: whatever can be refused is refused, and all footers are read
    FollowingTable.commit    right after it: one version of the table, with the files of the run
    settle                   at a start: the two agree again, if a driver was killed between them
    tidy                     after retention: versions of the table whose parts are deleted are forgotten

CURRENT.json is first, and says in `table` that a table follows. So there is one truth, and a table that lags is brought to
it by whoever holds the lock next; it was never ahead, so no reader of it saw rows that the gate refused or that were not
published. Between the two the table has the snapshot before, whose parts stay until retention, which comes after.

Whether the table has a run is told by its files: all of them, with their sizes, are those that the run's receipts name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pyarrow as pa

from jobs.driver.lock import DriverLock
from jobs.publish.tables.delta import DeltaWriter
from jobs.publish.tables.iceberg import IcebergWriter
from jobs.publish.tables.table import TableChanged, TablePart, TableVersion, TableWriter
from jobs.state.current import Current, read_current
from jobs.state.records import list_runs
from jobs.state.stored_run import StoredRun
from workers.config import OutputTable
from workers.errors import ReembedError, RunAborted, UsageError
from workers.records.documents import ReadPlan
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.table.part_file import PartDamaged, open_part
from workers.table.paths import CURRENT, DATA, RunPaths, is_run_id
from workers.table.schema import ID, PARTITION_VALUES

log = logging.getLogger("reembed")

TABLE = "table"  # in CURRENT.json: the format of the table that follows it
_READERS = 32  # footers at once: bound by latency
_ATTEMPTS = 4  # to commit and to find it committed; a driver that was replaced may commit at the same moment


class FollowingTable:
    """The table of an output, about to take the parts of one run."""

    def __init__(self, run: StoredRun, kind: OutputTable) -> None:
        self.kind = kind
        self._run, self._writer = run, _writer(kind, run.store)
        self._parts: list[TablePart] = []
        self._owners: dict[int, str] = {}  # by version

    def prepare(self) -> None:
        """Changes nothing.

        Raises:
            UsageError: the format cannot express the run; TableChanged: the table is not what this program made of it.
            RunAborted: a part is damaged. TransientError.
        """
        schema = self._run.schema
        self._writer.refuse(schema.rows, schema.partition_by)
        self._owner(self._writer.present())
        with ThreadPoolExecutor(_READERS) as pool:
            read = partial(_part, self._run.store, schema.partition_by)
            self._parts = list(pool.map(read, self._run.files))
        self._writer.refuse_parts(self._parts)

    def commit(self, lock: DriverLock) -> None:
        """Idempotent. Raises: as prepare(); RunAborted: the lock is lost. The next start commits then."""
        schema = self._run.schema
        for _ in range(_ATTEMPTS):
            present = self._writer.present()
            if present is not None and self._owner(present) == self._run.run_id:
                self._writer.finish(present.number)
                return
            lock.check()
            before = None if present is None else present.number
            if self._writer.commit(before, self._run.run_id, schema.rows, schema.partition_by, self._parts):
                log.info("%s table %s: %s is committed", self.kind, self._run.store.uri_of(DATA), self._run.run_id)
        raise TableChanged(
            f"output.table: another program commits to {self._run.store.uri_of(DATA)} at this moment; run again"
        )

    def _owner(self, present: TableVersion | None) -> str | None:
        if present is None:
            return None
        if present.number not in self._owners:  # the receipts of a run are read
            self._owners[present.number] = _owner(self._run.store, self._writer, present, self._run)
        return self._owners[present.number]


def following(run: StoredRun, kind: OutputTable | None) -> FollowingTable | None:
    """The table that is to take the parts of `run`; None: none is wanted."""
    return None if kind is None else FollowingTable(run, kind)


def followed_by(current: Current | None) -> OutputTable | None:
    """The format of the table that follows CURRENT.json; None: none does. Raises: RunAborted: one that is not known."""
    named = None if current is None else current.facts.get(TABLE)
    try:
        return None if named is None else OutputTable(named)
    except ValueError:
        raise RunAborted(f"{CURRENT}: names a table of the format {named!r}, which this version does not know") from None


def present_table(store: Store) -> OutputTable | None:
    """The format of the table that follows CURRENT.json and is there; None: none does, or it was given up."""
    kind = followed_by(read_current(store))
    return kind if kind is not None and _writer(kind, store).present() is not None else None


def refuse_columns(kind: OutputTable | None, store: Store, plan: ReadPlan, partition_by: Sequence[str]) -> None:
    """Before anything is embedded. Raises: UsageError: the format has no type or name for an id or a kept column."""
    if kind is not None:
        _writer(kind, store).refuse(pa.schema([pa.field(ID, plan.id_type, nullable=False), *plan.keep]), partition_by)


def require_table(store: Store, wanted: OutputTable | None) -> bool:
    """Whether table and CURRENT.json agree; False: settle() has to bring the table to it. Called before anything is written.

    Raises:
        UsageError: a table follows that the settings do not want any more. TableChanged. RunAborted, TransientError.
    """
    current = read_current(store)
    followed = followed_by(current)
    if followed is not None and followed is not wanted and (left := _writer(followed, store)).present() is not None:
        raise UsageError(
            f"output.table is {wanted or 'not set'}, and {store.uri_of(DATA)} is a {followed} table that follows the "
            f"snapshots: set output.table: {followed}, or delete {left.folder} to give it up"
        )
    if wanted is None:
        return True
    writer = _writer(wanted, store)
    present = writer.present()
    owner = None if present is None else _owner(store, writer, present)
    finished = present is not None and present.finished
    return current is None or (followed is wanted and owner == current.run_id and finished)


def settle(store: Store, lock: DriverLock, kind: OutputTable | None, *, begin: bool = False) -> None:
    """Make the table the published snapshot's, under the lock. `begin`: also where no table follows CURRENT.json yet.

    Raises:
        As FollowingTable.
    """
    current = read_current(store)
    if kind is None or current is None or not (begin or followed_by(current) is kind):
        return
    writer = _writer(kind, store)
    present = writer.present()
    if followed_by(current) is kind and present is not None and _owner(store, writer, present) == current.run_id:
        if not present.finished:
            lock.check()
            writer.finish(present.number)
        return
    run = StoredRun.open(store, current.run_id)
    if run is None:
        raise RunAborted(
            f"{store.uri_of(RunPaths(current.run_id).record)}: missing; the folder of a published run must stay"
        )
    table = FollowingTable(run, kind)
    table.prepare()
    if followed_by(current) is not kind:
        lock.check()
        store.put(CURRENT, replace(current, facts=current.facts | {TABLE: kind.value}).to_json())
    table.commit(lock)


def tidy(store: Store, lock: DriverLock, kind: OutputTable | None) -> None:
    """Forget versions of the table whose parts retention has deleted. A failure is logged: the next run goes on with it."""
    if kind is None:
        return
    try:
        lock.guard()
        gone = _writer(kind, store).tidy(list_runs(store))
    except ReembedError as error:
        log.warning("output.table: old versions of the table were not all forgotten; the next run tries again: %s", error)
        return
    if gone:
        log.info("%s table %s: %d versions are forgotten, whose parts are deleted", kind, store.uri_of(DATA), gone)


def _writer(kind: OutputTable, store: Store) -> TableWriter:
    writers: dict[OutputTable, Callable[[Store], TableWriter]] = {
        OutputTable.DELTA: DeltaWriter,
        OutputTable.ICEBERG: IcebergWriter,
    }
    return writers[kind](store)


def _part(store: Store, partition_by: Iterable[str], file: OutputFile) -> TablePart:
    """Of its footer. Raises: RunAborted: it is damaged or gone."""
    where = store.uri_of(file.path)
    try:
        with open_part(store, file.path, size=file.bytes) as part:
            values: Mapping[str, str | None] = json.loads(part.footer.get(PARTITION_VALUES, "{}"))
            return TablePart(file, {name: values[name] for name in partition_by}, part.statistics)
    except (PartDamaged, FileNotFoundError, ValueError, KeyError) as error:
        raise RunAborted(f"{where}: its footer cannot be read ({error}); `reembed verify` tells what is damaged") from None


def _owner(store: Store, writer: TableWriter, table: TableVersion, known: StoredRun | None = None) -> str:
    """The run whose files the table has: all of them, with their sizes, as its receipts name them. `known`: has been read.

    Raises:
        TableChanged: there is none, so somebody else has written to the table. RunAborted, UsageError, TransientError.
    """
    if not table.files and table.run_id is not None:
        return table.run_id  # a snapshot without rows
    folders = {path.split("/")[1] for path in table.files if path.startswith(f"{DATA}/")}
    opened = [
        known if known is not None and known.run_id == run_id else StoredRun.open(store, run_id)
        for run_id in sorted(folders)
        if is_run_id(run_id)
    ]
    runs = [run for run in opened if run is not None]
    named = [{file.path: file.bytes for file in run.files} for run in runs]
    if len(runs) == 1 and dict(table.files) == named[0]:
        return runs[0].run_id
    strange = next((path for path in sorted(table.files) if not any(path in files for files in named)), None)
    why = f"it has {strange}" if strange else "it has not all files of a snapshot, or those of several"
    raise TableChanged(
        f"output.table: version {table.number} of the table {store.uri_of(DATA)} was written by another program ({why}), "
        f"and would be lost: restore the version before it, or delete {writer.folder}, and the next start writes a new one"
    )

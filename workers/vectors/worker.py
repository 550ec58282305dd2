"""VectorWorker: does the passes of one actor. It reads a shard once and keeps it for the passes that follow.

    answer(step, assignment)   a pass over a shard       -> PassResult | Failure
    unit(step, assignment)     a pass over a unit        -> PassResult | Failure
    write(step, assignment)    the last pass             -> Receipt | Failure
    work(step, assignment)     whichever of them the step is for
    one_thread()               BLAS and OpenMP of this process have one thread from now on

Every call has one thread: sums of several threads have bits that depend on their number. Errors are returned as a Failure,
never raised; which shard comes next is the scheduler's knowledge.
"""

from __future__ import annotations

import functools
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from workers.config import StorageOptions
from workers.errors import ObjectError
from workers.host.memory import peak_memory_bytes
from workers.host.spill_file import local_disk, own_spill_folder
from workers.records.shard import Assignment, Blame, Failure, OutputFile, Receipt, ReplicaStats
from workers.snapshot.vectors import partition_columns
from workers.storage.store import Store
from workers.table.part_file import PartReader, decoding, open_part
from workers.table.paths import RunPaths
from workers.table.schema import PREFIX, OutputSchema
from workers.table.vectors import decode, stored_cells, vectors_per_row
from workers.vectors.derived import DerivedStamp, Desk, WriteStep
from workers.vectors.shard_cache import ShardCache
from workers.vectors.shard_rows import PartSpan, ShardRows
from workers.vectors.step import Partial, Step, UnitStep
from workers.vectors.workplace import Workplace
from workers.writing.commit import adopt, described, put_shard
from workers.writing.failure import failure_of

READ_ROWS = 8192
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with. Holds storage options with credentials, so it is never logged or stored."""

    source_uri: str
    output_uri: str
    schema: OutputSchema  # of the source
    stamp: DerivedStamp
    fingerprint: str  # of the run: parts of other settings are not adopted
    columns: tuple[str, ...]  # of the source, that any step reads
    first_rows: Sequence[int]  # number of each shard's first row in the whole snapshot, by place in `numbers`
    numbers: Sequence[int]  # shard numbers, ascending
    cache_bytes: int
    atomic_create: bool
    source_options: StorageOptions = field(default_factory=dict)
    output_options: StorageOptions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassResult:
    """A shard's or unit's answer to a pass."""

    shard: int
    epoch: int
    partial: Partial
    seconds: float
    bytes_read: int = 0  # of vectors, from the store
    adopted: bool = False


def one_thread() -> None:
    """Limits every library that is loaded by now; the limit stays.

    Libraries are looked for where modules have been imported since the last call: looking takes milliseconds.
    """
    global _controller, _modules
    if _controller is None or len(sys.modules) != _modules:
        _controller, _modules = ThreadpoolController(), len(sys.modules)
    _controller.limit(limits=1)


_controller: ThreadpoolController | None = None
_modules = 0  # imported when the controller was made


class VectorWorker:
    """The passes of one actor (or of the driver itself, on several threads)."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self.name, self._settings = name, settings
        self._source = Store(settings.source_uri, settings.source_options)
        self._output = Store(settings.output_uri, settings.output_options)
        self._output.atomic_create = settings.atomic_create
        folder = own_spill_folder()
        with local_disk(folder):
            self._folder = Path(tempfile.mkdtemp(prefix="vectors-", dir=folder))
        self._cache = ShardCache(self._folder, settings.cache_bytes)
        self._place = {number: place for place, number in enumerate(settings.numbers)}
        self.workplace = Workplace(self._source, self._output, RunPaths(settings.stamp.run_id).scratch, self._folder)
        self._began = time.monotonic()
        self.rows_done, self.busy_seconds, self.bytes_read = 0, 0.0, 0
        self._rows_seen = 0  # in blocks that steps are through with

    def facts(self) -> dict[str, Any]:
        """For the log."""
        return {"node": socket.gethostname()}

    def close(self) -> None:
        """Remove its local files."""
        self._cache.forget()
        shutil.rmtree(self._folder, ignore_errors=True)

    def work(self, step: Step | UnitStep | WriteStep, assignment: Assignment) -> PassResult | Receipt | Failure:
        match step:
            case Step():
                return self.answer(step, assignment)
            case UnitStep():
                return self.unit(step, assignment)
            case WriteStep():
                return self.write(step, assignment)

    def answer(self, step: Step, assignment: Assignment) -> PassResult | Failure:
        return self._attempt(assignment, lambda: self._result(assignment, lambda: step.of_shard(self._rows(assignment))))

    def unit(self, step: UnitStep, assignment: Assignment) -> PassResult | Failure:
        number = assignment.shard.number
        return self._attempt(assignment, lambda: self._result(assignment, lambda: step.of_unit(number, self.workplace)))

    def write(self, step: WriteStep, assignment: Assignment) -> Receipt | Failure:
        return self._attempt(assignment, lambda: self._written(step, assignment))

    def stats(self) -> ReplicaStats:
        """Totals since the start; `tokens` counts rows also of unfinished shards: a pass goes on while it grows."""
        return ReplicaStats(
            documents=self.rows_done,
            tokens=self.rows_done + self._rows_seen,
            busy_seconds=self.busy_seconds,
            uptime_seconds=time.monotonic() - self._began,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _attempt(self, assignment: Assignment, work: Callable[[], _Answer]) -> _Answer | Failure:
        began = time.monotonic()
        try:
            one_thread()  # again each time: libraries that a step imports have as many threads as there are cores
            answer = work()
            self._cache.release(assignment.shard.number)
            self.rows_done += assignment.shard.rows or 0
            return answer
        except ObjectError as error:  # a part of the source: no other actor can read it either
            reason = f"{error}; `reembed verify` of the source tells more, `reembed embed` writes it again"
            return Failure(assignment.shard.number, assignment.epoch, Blame.SHARD, reason)
        except FileNotFoundError as error:
            reason = f"{error}: gone; the source's snapshot has been deleted or replaced meanwhile"
            return Failure(assignment.shard.number, assignment.epoch, Blame.SHARD, reason)
        except Exception as error:  # noqa: BLE001 - every error is returned as a Failure that says what is at fault
            return failure_of(assignment, error)
        finally:
            self.busy_seconds += time.monotonic() - began

    def _result(self, assignment: Assignment, compute: Callable[[], Partial]) -> PassResult:
        began, read = time.monotonic(), self.bytes_read
        partial = compute()
        seconds = time.monotonic() - began
        return PassResult(assignment.shard.number, assignment.epoch, partial, seconds, self.bytes_read - read)

    def _rows(self, assignment: Assignment) -> ShardRows:
        return self._cache.get(assignment.shard.number, lambda: self._load(assignment))

    def _load(self, assignment: Assignment) -> ShardRows:
        settings, shard = self._settings, assignment.shard
        schema = settings.schema
        spans: list[PartSpan] = []
        stored: list[NDArray[Any]] = []
        tables: list[pa.Table] = []
        first = 0
        for piece in shard.slices:
            with open_part(self._source, piece.uri, size=piece.size) as part:
                cells, counts, table = _read_part(part, piece.uri, schema, settings.columns)
                digest = part.footer.get(PREFIX + "rows_digest", "")
            spans.append(PartSpan(piece.uri, first, len(cells), digest, counts))
            stored.append(cells)
            tables.append(table)
            first += len(cells)
            self.bytes_read += cells.nbytes
        fields = pa.schema([schema.rows.field(name) for name in settings.columns])
        columns = pa.concat_tables(tables) if tables else fields.empty_table()
        form = schema.vector_format
        unpack = functools.partial(decode, vector_type=form.vector, scale=form.int8_scale)
        place = settings.first_rows[self._place[shard.number]]
        return ShardRows(shard.number, place, spans, stored, unpack, columns, self.workplace, self._saw)

    def _saw(self, rows: int) -> None:
        self._rows_seen += rows  # a count lost between threads does no harm: that it grows is what matters

    def _written(self, step: WriteStep, assignment: Assignment) -> Receipt:
        settings, shard = self._settings, assignment.shard
        run_id = settings.stamp.run_id
        adopted = adopt(self._output, run_id, shard, settings.fingerprint)
        if adopted is not None:
            return adopted
        began = time.monotonic()
        with local_disk(self._folder):
            folder = Path(tempfile.mkdtemp(prefix=f"shard-{shard.name}-", dir=self._folder))
        try:
            stamp = replace(settings.stamp, facts=step.footer())
            desk = Desk(self._source, settings.schema, assignment, stamp, settings.stamp.source_run_id, folder)
            with local_disk(folder):
                made = list(step.files(self._rows(assignment), desk))
            files = [described(file.local, file.path, file.rows, file.rows_digest, file.footer) for file in made]

            def receipt(outputs: Sequence[OutputFile]) -> Receipt:
                spent = round(time.monotonic() - began, 4)
                ended = round(time.time(), 3)
                return Receipt.of_rows(shard.number, assignment.epoch, outputs, self.name, seconds=spent, ended=ended)

            return put_shard(self._output, RunPaths(run_id).staged(shard.number), settings.fingerprint, files, receipt)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._cache.drop(shard.number)  # no pass follows


def _read_part(
    part: PartReader, path: str, schema: OutputSchema, columns: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.int64] | None, pa.Table]:
    """Vectors as stored [V, W], vectors of each row where there are lists, and the columns [N]."""
    folder = [name for name in columns if name in schema.partition_by]
    inside = [name for name in columns if name not in folder]
    names = [schema.column, *inside]
    batches = list(part.batches(READ_ROWS, names))
    table = pa.Table.from_batches(batches, pa.schema([part.schema.field(name) for name in names]))
    with decoding(part.uri):
        embedding = table.column(schema.column)
        cells = stored_cells(embedding, schema.stamp.vector)
        counts = vectors_per_row(embedding) if schema.lists else None
        if len(cells) != (table.num_rows if counts is None else counts.sum()):
            raise ValueError("a row without a vector")
    values = partition_columns(part, path, schema, folder)
    arrays = [
        pa.chunked_array([pa.repeat(values[name], table.num_rows)]) if name in values else table.column(name)
        for name in columns
    ]
    fields = pa.schema([schema.rows.field(name) for name in columns])
    found = pa.Table.from_arrays(arrays, names=list(columns)).cast(fields) if columns else fields.empty_table()
    return cells, counts, found

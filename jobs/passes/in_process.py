"""Passes by threads of this process, for snapshots that need no cluster. Starts no Ray.

InProcess       an Executor (passes.py)
passes_here     passes over a snapshot for a look at it: no run, no journal, and nothing written but below a local folder
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits

from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.errors import RunAborted, UsageError
from workers.records.shard import Assignment, Blame, Failure, Receipt, Shard
from workers.vectors.derived import DerivedStamp, WriteStep
from workers.vectors.step import Combiner, Partial, Step, UnitStep
from workers.vectors.worker import PassResult, VectorWorker, WorkerSettings


class InProcess:
    """An Executor (passes.py). `check` raises if the driver must stop; it is asked after each shard."""

    def __init__(self, worker: VectorWorker, threads: int, first_epoch: int, check: Callable[[], None]) -> None:
        self._worker, self._threads, self._check = worker, threads, check
        self._epoch = self._first_epoch = first_epoch

    def run(self, step: Step | UnitStep, shards: Sequence[Shard], combiner: Combiner) -> None:
        """Raises: as Executor.run()."""

        for result in self._in_order(step, shards):
            if isinstance(result, PassResult):
                combiner.add(result.partial)

    def write(self, step: WriteStep, shards: Sequence[Shard], record: Callable[[Receipt], Any]) -> None:
        """Every shard is written; `record` is given its receipt. Raises: as Executor.run()."""
        for result in self._in_order(step, shards):
            if isinstance(result, Receipt):
                record(result)

    def spent(self) -> tuple[int, int, int]:
        """Assignments, vector bytes read from the store, peak memory of this process in bytes."""
        return self._epoch - self._first_epoch, self._worker.bytes_read, self._worker.stats().peak_memory_bytes

    def _in_order(self, step: Step | UnitStep | WriteStep, shards: Sequence[Shard]) -> Iterator[PassResult | Receipt]:
        with ThreadPoolExecutor(self._threads, thread_name_prefix="passes") as pool, threadpool_limits(limits=1):
            try:
                for result in pool.map(
                    lambda assignment: self._worker.work(step, assignment), map(self._assignment, shards)
                ):
                    self._check()
                    if isinstance(result, Failure):
                        raise failed(result)
                    yield result
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _assignment(self, shard: Shard) -> Assignment:
        self._epoch += 1
        return Assignment(shard, self._epoch, 1)


class _NoJournal:
    """Nothing is kept: who is interrupted looks again."""

    def read(self, place: int, name: str, digest: str) -> Partial | None:
        """Never there."""

    def write(self, place: int, name: str, digest: str, value: Partial) -> None:
        """Dropped."""


@contextlib.contextmanager
def passes_here(
    source: SourceSnapshot, columns: Sequence[str], check: Callable[[], None] = lambda: None, *, cache_bytes: int = 1 << 30
) -> Iterator[Passes]:
    """`columns`: of the snapshot, that steps read. `check` is asked after each shard, and raises if it must end."""
    with tempfile.TemporaryDirectory(prefix="reembed-passes-") as folder:
        settings = WorkerSettings(
            source_uri=source.store.uri,
            output_uri=folder,
            schema=source.schema,
            stamp=DerivedStamp(source.run_id, "look", source.run_id, source.uri),
            fingerprint="",
            columns=tuple(columns),
            first_rows=source.first_rows,
            numbers=[shard.number for shard in source.shards],
            cache_bytes=cache_bytes,
            atomic_create=True,
            source_options=source.storage_options,
        )
        worker = VectorWorker(settings, "here")
        try:
            yield Passes(source, InProcess(worker, cores(), 1, check), _NoJournal())
        finally:
            worker.close()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def failed(failure: Failure) -> UsageError | RunAborted:
    """The error that a failed attempt ends the job with."""
    if failure.blame is Blame.REQUEST:
        return UsageError(failure.reason)
    return RunAborted(
        f"shard {failure.shard}: {failure.reason}; what is committed stays, run the same command again to resume"
    )

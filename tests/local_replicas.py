"""Runs whose replicas are threads of this process: the real command, scheduler, replica, model and gate, but no Ray.

For tests that are about what a run computes, publishes or refuses. Processes and their deaths are the subject of others.
Reports have no charts here: matplotlib takes as long as a small run. tests/jobs/report and every run of a Driver draw them.

LocalPool    stands for jobs.pool.replica_pool.ReplicaPool
local_run    runs a command of reembed in this process, with a LocalPool for its replicas -> how it ended
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from jobs.config import ClusterConfig
from jobs.pool.replica_shape import ReplicaShape
from jobs.scheduling.messages import Command, Dispatch, Event, Finished, Lost, Ready, StartReplica, Stats, StopReplica
from tests.drivers import Ended
from workers.config import ModelConfig
from workers.errors import UsageError
from workers.model.files import ModelFiles
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.shard import Assignment, Shard
from workers.replica.settings import ReplicaSettings, ResolvedSettings

if TYPE_CHECKING:
    from workers.replica.golden_reference import GoldenReferenceFile
    from workers.replica.replica import Replica

RESOURCES = {"CPU": 8.0, "GPU": 0.0, "memory": 8e9}  # of the cluster that is not there


class LocalPool:
    """Replicas by number. A call of a replica runs in a thread of its own; what it returns becomes an event."""

    def __init__(self, shape: ReplicaShape, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._resolved: ResolvedSettings | None = None
        self._replicas: dict[int, Replica] = {}
        self._ready: set[int] = set()
        self._loading = threading.Lock()  # a second start of the same replica waits for its model
        self._events: queue.SimpleQueue[tuple[ResolvedSettings | None, Event]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(4 * shape.replicas)

    def execute(self, command: Command) -> None:
        match command:
            case StartReplica(number):
                self._threads.submit(self._start, number, self._resolved)
            case Dispatch(number, assignment):
                self._threads.submit(self._embed, number, assignment, self._resolved)
            case StopReplica(number):
                self._ready.discard(number)
                self._replicas.pop(number, None)

    def configure(self, resolved: ResolvedSettings) -> None:
        self._resolved = resolved
        self._ready.clear()

    def calibrate(self, replica: int, shards: Sequence[Shard], timeout: float) -> dict[str, float]:
        return self._replicas[replica].calibrate(shards)

    def wait(self, timeout: float) -> list[Event]:
        end = time.monotonic() + timeout
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            while True:
                left = 0.0 if events else max(0.0, end - time.monotonic())
                resolved, event = self._events.get(timeout=left)
                if resolved is self._resolved:  # else it answers a call from before `configure`
                    events.append(event)
        self._ready |= {event.replica for event in events if isinstance(event, Ready)}
        return events

    def last_stats(self, timeout: float) -> list[Stats]:
        return [Stats(number, self._replicas[number].stats()) for number in sorted(self._ready)]

    def golden(self, timeout: float) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        found = [self._replicas[number].golden() for number in sorted(self._ready)]
        return [vectors for vectors in found if vectors is not None]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._replicas.clear()

    def _start(self, number: int, resolved: ResolvedSettings | None) -> None:
        from workers.replica.replica import Replica  # torch: for the runs alone

        try:
            with self._loading:
                replica = self._replicas.get(number) or Replica(self._settings, f"replica-{number}")
                self._replicas[number] = replica
            if resolved is not None:
                replica.configure(resolved)
            self._tell(resolved, Ready(number, replica.facts()))
        except Exception as error:  # noqa: BLE001 - as an actor's: it becomes an event
            refused = error if isinstance(error, UsageError) else None
            self._tell(resolved, Lost(number, str(error), charged=True, starting=True, error=refused))

    def _embed(self, number: int, assignment: Assignment, resolved: ResolvedSettings | None) -> None:
        self._tell(resolved, Finished(number, self._replicas[number].embed_shard(assignment)))

    def _tell(self, resolved: ResolvedSettings | None, event: Event) -> None:
        self._events.put((resolved, event))


@contextlib.contextmanager
def _no_ray() -> Iterator[None]:
    import jobs.embed.job
    import jobs.embed.session
    import jobs.report.charts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.report.charts, "charts", lambda facts: {})
        patch.setattr(jobs.embed.job, "golden_reference_file", _computed_here)
        patch.setattr(jobs.embed.session, "ReplicaPool", LocalPool)
        patch.setattr(jobs.embed.session, "connected", _connected)
        patch.setattr(jobs.embed.session, "cluster_resources", lambda: RESOURCES)
        yield


@contextlib.contextmanager
def _computed_here(model: ModelConfig, files: ModelFiles, recipe: EmbeddingRecipe) -> Iterator[GoldenReferenceFile | None]:
    """In place of a process that imports transformers anew. None: the replica finds what is wrong with the model itself."""
    from workers.model.tokenizer import TextTokenizer
    from workers.replica.golden_reference import GoldenReferenceFile, cache_path, kept_reference

    path = cache_path(files, recipe)
    if not path.is_file():
        with contextlib.suppress(Exception):
            kept_reference(files, recipe, TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS))
    yield GoldenReferenceFile(str(path), os.getpid(), files.weights_digest) if path.is_file() else None


@contextlib.contextmanager
def _connected(config: ClusterConfig, check: Callable[[], None]) -> Iterator[bool]:
    """Only a local cluster is there: a run with another address must not need one."""
    if config.address != "local":
        raise UsageError(f"cluster.address={config.address}: no Ray cluster there")
    yield False


def local_run(*arguments: str | Path) -> Ended:
    """`reembed ARGUMENTS` in this process. `log` is what it writes to stderr."""
    from jobs.cli import main

    stdout, log = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s"))
    logging.getLogger("reembed").addHandler(handler)
    began, status = time.monotonic(), 0
    try:
        with _no_ray(), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(log):
            main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        logging.getLogger("reembed").removeHandler(handler)
    return Ended(status, stdout.getvalue(), log.getvalue(), time.monotonic() - began)


def local_embed(config: Path, *overrides: str) -> Ended:
    """As tests.drivers.embed, wherever the configuration's cluster is."""
    return local_run("embed", config, "cluster.address=local", *overrides, "--json")

"""One simulated run of the real job (jobs.embed) at a large scale, from its manifest to its report.

Real are manifest, ledger and its log, lock, dispatch loop, scheduler, progress, status, accounting, gate, publication and
report. Simulated are the replicas and Ray (benchmarks/scale_replicas.py), the clock of the dispatch loop, and the parts: the
store reports them as existing, and all have the contents of one Parquet file, which the gate reads.

run(…) is called in a process of its own, so that the memory is the run's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.agenda import Agenda
from benchmarks.scale_replicas import FakeReplicas, Times
from benchmarks.scale_weather import SCENARIOS
from jobs.config import parse_config
from jobs.corpus.discovery import Corpus
from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag
from jobs.embed import job as job_module
from jobs.embed import loop as loop_module
from jobs.embed import session as session_module
from jobs.planning.planned_run import PlannedRun
from jobs.planning.request import Request
from jobs.planning.run import Run
from jobs.state.ledger import Ledger
from workers.config import LongText, Pooling
from workers.model.files import ModelFiles
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice, OutputFile, Receipt, Shard
from workers.storage.store import Store
from workers.table.paths import RunPaths

RUN_ID = "20261120T200000Z-5ca1e000"
ROWS, DIM = 18_000, 16  # of a part: 64 MiB of text at 900 tokens a document; short vectors, since only a sample is read
SHARD_BYTES = 64 << 20


def part_body() -> bytes:
    """A small part that is right in all that the gate reads: unit vectors, and as many rows as its receipt says."""
    vectors = np.random.default_rng(1).standard_normal((256, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.resize(vectors, (ROWS, DIM))
    table = pa.table(
        {
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
            "text_hash": pa.array([number.to_bytes(16, "big") for number in range(ROWS)], pa.binary(16)),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


class CountingStore(Store):
    """Counts the operations that would be requests on S3, by verb and by kind of object."""

    def __init__(self, uri: str, options: dict[str, Any] | None = None) -> None:
        super().__init__(uri, options or {})
        self.requests: Counter[str] = Counter()
        self._counting = threading.Lock()

    def _count(self, verb: str, path: str, times: int = 1) -> None:
        """`PUT receipts`, `LIST data`: the room of the run, else the first folder."""
        area = path.removeprefix(f"{RunPaths(RUN_ID).root}/").removeprefix("runs/").partition("/")[0]
        with self._counting:
            self.requests[f"{verb} {area}"] += times

    def read(self, path: str) -> bytes:
        self._count("GET", path)
        return super().read(path)

    def open(self, path: str, **options: Any) -> IO[bytes]:
        self._count("GET", path)
        return super().open(path, **options)

    def exists(self, path: str) -> bool:
        self._count("HEAD", path)
        return super().exists(path)

    def put(self, path: str, data: bytes) -> None:
        self._count("PUT", path)
        super().put(path, data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self._count("PUT", path)
        return super().put_if_absent(path, data)

    def folders(self, prefix: str) -> tuple[str, ...]:
        found = super().folders(prefix)
        self._count("LIST", prefix, max(1, -(-len(found) // 1000)))
        return found

    def list(self, prefix: str) -> dict[str, int]:
        found = super().list(prefix)
        self._count("LIST", prefix, max(1, -(-len(found) // 1000)))
        return found

    def delete(self, path: str) -> None:
        self._count("DELETE", path)
        super().delete(path)


class SimulatedStore(CountingStore):
    """A local folder, with simulated parts: a part exists as soon as a replica has set its mark."""

    def __init__(self, uri: str, shards: int, part: bytes) -> None:
        super().__init__(uri)
        self.parts = bytearray(shards)
        self.part = part
        self.folder = f"{RunPaths(RUN_ID).data}/lang=de"

    def open(self, path: str, **options: Any) -> IO[bytes]:
        if not path.startswith(self.folder):
            return super().open(path, **options)
        self._count("GET", path)
        return io.BytesIO(self.part)

    def list(self, prefix: str) -> dict[str, int]:
        if prefix != RunPaths(RUN_ID).data:
            return super().list(prefix)
        size = len(self.part)
        found = {f"{self.folder}/part-{number:07d}.parquet": size for number, there in enumerate(self.parts) if there}
        self._count("LIST", prefix, max(1, -(-len(found) // 1000)))
        return found


def make_shards(count: int) -> list[Shard]:
    """Shards of a corpus of that many objects of 64 MiB."""
    return [Shard(number, (_object(number),), SHARD_BYTES) for number in range(count)]


def _object(number: int) -> ObjectSlice:
    uri, etag = f"s3://corpus/crawl/lang=de/part-{number:07d}.jsonl", hashlib.md5(b"%d" % number).hexdigest()
    return ObjectSlice(uri, SHARD_BYTES, etag, 0, SHARD_BYTES, None, 0, (("lang", "de"),))


def make_request(store: Store, replicas: int) -> Request:
    """A request whose model is named but never opened."""
    config = parse_config(
        {
            "corpus": {"uri": "s3://corpus/crawl/", "id": "id", "keep": ["lang"]},
            "model": {"name": "bert-base-uncased", "precision": "float16"},
            "output": {"uri": store.uri, "partition_by": ["lang"]},
            "cluster": {"address": "ray://simulated", "replicas": replicas, "gpus_per_replica": 1, "cpus_per_replica": 4},
        },
        "benchmarks.scale",
    )
    recipe = EmbeddingRecipe(
        transformer="", pooling=(Pooling.MEAN,), include_prompt=True, normalize=True, max_tokens=512,
        long_text=LongText.TRUNCATE, chunk_overlap=64, prompt="", query_prompt="", truncate_dim=None, do_lower_case=False,
        dim=DIM,
    )  # fmt: skip
    files = ModelFiles(Path("bert-base-uncased"), "bert-base-uncased", None, "0" * 64, "1" * 64)
    return Request(config, store, files, recipe, "2" * 64)


def make_run(store: Store, shards: int, replicas: int) -> Run:
    """A begun run: manifest and run.json are stored."""
    request = make_request(store, replicas)
    plan = ReadPlan(request.config.corpus, pa.string(), pa.schema([("lang", pa.string())]))
    corpus = Corpus((), plan)
    return PlannedRun(request, RUN_ID, make_shards(shards), plan, corpus).begin("float16", None, 65_536)


class _Clock:
    """Replaces the module `time` in the modules that import it."""

    def __init__(self, agenda: Agenda) -> None:
        self.monotonic = lambda: agenda.now


@contextmanager
def simulated(pool: FakeReplicas, agenda: Agenda) -> Iterator[None]:
    """Inside the block jobs.embed.session uses these replicas and virtual time instead of Ray's."""

    @contextmanager
    def connected(_config: object, _check: object) -> Iterator[None]:
        yield

    clock = _Clock(agenda)
    with (
        mock.patch.object(session_module, "connected", connected),
        mock.patch.object(session_module, "cluster_resources", return_value={"CPU": 1e6, "GPU": 1e5}),
        mock.patch.object(session_module, "ReplicaPool", return_value=pool),
        mock.patch.object(session_module, "time", clock),
        mock.patch.object(loop_module, "time", clock),
    ):
        yield


class _Dispatched(BaseException):
    """Raised after the last receipt; the job does not catch it."""


def _not_stored(_ledger: Ledger, _receipt: Receipt) -> None:
    """Replaces Ledger.record_async. A mock would keep a million receipts."""


def _ended(_ledger: Ledger) -> None:
    raise _Dispatched


def run(
    scenario: str, shards: int, replicas: int, seed: int, shard_seconds: float, scratch: str, dispatch_only: bool = False
) -> dict[str, Any]:
    """Simulate one run; returns its figures. Raises what the job raises.

    `dispatch_only`: receipts are not stored, and the run ends after the last one. It measures how replicas spend their time.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = part_body()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        store = SimulatedStore(folder, shards, body)
        agenda = Agenda()
        part = OutputFile(store.folder, ROWS, len(body), "", "")
        marks = [(time.process_time(), time.perf_counter())]
        planned = make_run(store, shards, replicas)
        store.requests.clear()
        marks.append((time.process_time(), time.perf_counter()))
        pool = FakeReplicas(agenda, SCENARIOS[scenario], seed, shard_seconds, part, store.parts)
        phases = _Phases()
        summary: dict[str, Any] = {"shards": {"planned": shards, "done": shards}, "state": "not stored"}
        with contextlib.ExitStack() as stack:
            for context in (simulated(pool, agenda), phases.watched(), contextlib.suppress(_Dispatched)):
                stack.enter_context(context)
            if dispatch_only:
                stack.enter_context(mock.patch.object(Ledger, "record_async", _not_stored))
                stack.enter_context(mock.patch.object(Ledger, "drain", _ended))
            summary = job_module._work(planned, stack.enter_context(held_lock(store)), StopFlag())
        marks.append((time.process_time(), time.perf_counter()))
        return _figures(summary, pool, agenda, store, marks, phases, replicas) | {
            "scenario": scenario,
            "seed": seed,
            "shard_seconds": shard_seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "rss_before_bytes": before * 1024,
            "receipts_bytes": _receipt_bytes(store),
        }


def held_lock(store: Store) -> DriverLock:
    """A lock that is not lost when the measurement is paused for long."""
    return DriverLock(store, give_up_seconds=1e6)


class _Phases:
    """CPU and wall seconds of each of the job's steps, and the peak memory until its end."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self.peaks: dict[str, int] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        with (
            self._step(session_module, "dispatch"),
            self._step(Ledger, "load"),
            self._step(job_module, "_account"),
            self._step(job_module, "publish"),
            self._step(job_module, "add_report"),
        ):
            yield

    def _step(self, where: Any, name: str) -> Any:
        call = getattr(where, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                before = self.seconds.get(name, (0.0, 0.0))
                self.seconds[name] = (before[0] + time.process_time() - cpu, before[1] + time.perf_counter() - wall)
                self.peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        return mock.patch.object(where, name, timed)  # a plain function: a mock would remember every call


def _figures(
    summary: dict[str, Any], pool: FakeReplicas, agenda: Agenda, store: SimulatedStore, marks: list[tuple[float, float]],
    phases: _Phases, replicas: int,
) -> dict[str, Any]:  # fmt: skip
    count = summary["shards"]["planned"]
    (began, _), (planned, _), (ended, wall_end) = marks
    driver = ended - planned - pool.cpu_seconds
    times: Times = pool.times
    attempts = np.sort(np.array(pool.attempts))
    makespan = pool.ended
    return {
        "shards": summary["shards"],
        "replicas": replicas,
        "published": summary.get("published", False),
        "state": summary["state"],
        "reasons": summary.get("reasons", []),
        "attempts": pool.dispatched,
        "happened": dict(pool.happened),
        "virtual_hours": round(makespan / 3600, 3),
        "efficiency": round(times.useful / times.held, 5),
        "efficiency_of_wanted": round(times.useful / (replicas * makespan), 5),
        "replica_hours": {
            name: round(getattr(times, name) / 3600, 2) for name in ("held", "useful", "lost", "loading", "idle")
        },
        "attempt_seconds": {
            name: round(float(np.quantile(attempts, share)), 1)
            for name, share in (("median", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
        },
        "tail_seconds": round(makespan - pool.idle_since, 1) if pool.idle_since is not None else 0.0,
        "planning_cpu_seconds": round(planned - began, 2),
        "driver_cpu_seconds": round(driver, 2),
        "driver_cpu_ms_a_shard": round(driver / count * 1e3, 4),
        "simulator_cpu_seconds": round(pool.cpu_seconds, 2),
        "wall_seconds": round(wall_end - marks[1][1], 1),
        "steps": {
            name.strip("_"): {
                "cpu_seconds": round(cpu - (pool.cpu_seconds if name == "dispatch" else 0.0), 2),
                "wall_seconds": round(wall, 2),
                "peak_rss_bytes_until_then": phases.peaks[name],
            }
            for name, (cpu, wall) in phases.seconds.items()
        },
        "requests": dict(sorted(store.requests.items())),
        "requests_a_shard": round(store.requests.total() / count, 4),
        "final_virtual_second": round(agenda.now, 1),
    }


def _receipt_bytes(store: SimulatedStore) -> int:
    sizes = store.list(f"{RunPaths(RUN_ID).receipts}/00000")
    return round(sum(sizes.values()) / len(sizes)) if sizes else 0

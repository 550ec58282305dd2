"""Small indexes for tests: vectors in groups, the job's program in this process, and its files written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobs.config import parse_section
from jobs.index.config import IndexConfig
from jobs.index.job import IndexJob
from jobs.passes.in_process import InProcess
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from jobs.state.current import Current
from tests.vector_snapshots import MemoryJournal, passes_over
from workers.records.shard import OutputFile, Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.vectors.derived import DerivedStamp
from workers.vectors.worker import VectorWorker, WorkerSettings

COUNT, DIM = 3000, 32
RUN = "20260102T000000Z-00000000"
CATALOG_PATH = RunPaths(RUN).table("files")


def mixture(count: int, dim: int = DIM) -> np.ndarray:
    """Unit vectors around fifty centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, dim))
    vectors = centres[rng.integers(0, 50, count)] + 0.5 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def config(output: Path, **section: Any) -> IndexConfig:
    """Files of a thousand rows, so that there are several."""
    raw = {"index": {"snapshot": str(output), "rows_per_file": 1000, **section}, "output": {"uri": f"{output}.index"}}
    return parse_section(raw, "test", IndexConfig)


def index_of(output: Path, settings: IndexConfig, kept: Kept | None = None) -> Outcome:
    job = IndexJob(settings)
    with passes_over(output, ["text_hash"], divide=lambda source: job.divide(source, kept)) as passes:
        return job.program(passes, kept)


def write_files(output: Path, target: Path, settings: IndexConfig, threads: int = 1) -> tuple[Outcome, list[OutputFile]]:
    """The program, its last pass, and its tables, as the runner leaves them below `target`."""
    job, source = IndexJob(settings), SourceSnapshot.open(str(output), {}, "snapshot")
    source = source.divided(job.divide(source, None))
    made = DerivedStamp(RUN, "index", source.run_id, source.uri)
    numbers = [shard.number for shard in source.shards]
    worker = VectorWorker(
        WorkerSettings(
            str(output), str(target), source.schema, made, "test", ("text_hash",), source.first_rows, numbers, 1 << 30, True
        ),
        "test",
    )
    try:
        executor = InProcess(worker, threads, 1, lambda: None)
        outcome = job.program(Passes(source, executor, MemoryJournal()), None)
        receipts: list[Receipt] = []
        assert outcome.step is not None
        executor.write(outcome.step, source.shards, receipts.append)
    finally:
        worker.close()
    for name, table in outcome.tables.items():
        path = target / RunPaths(RUN).table(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return outcome, [file for receipt in receipts for file in receipt.files]


def publish_index(output: Path, target: Path, settings: IndexConfig) -> None:
    """write_files(), and CURRENT.json, as readers find them."""
    outcome, files = write_files(output, target, settings)
    data = f"data/{RUN}"
    current = Current(
        RUN, str(target / data), data, sum(file.rows for file in files), "now", "test", facts=dict(outcome.facts)
    )
    Store(str(target), {}).put("CURRENT.json", current.to_json())

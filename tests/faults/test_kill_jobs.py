"""Jobs over a snapshot on a Ray of their own that loses actors: the same bits as by threads of one process."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.faults.conftest import LONG
from tests.sessions import ROOT, Session
from tests.vector_snapshots import publish_vectors

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread, LONG]

JOBS: dict[str, dict[str, Any]] = {
    "cluster": {"clusters": 12},
    "dedup": {"threshold": 0.9},
    "index": {"rows_per_file": 500},
    "evaluate": {"label": "label", "c": [10.0]},
}
KILLS = 2
SLOW = {"REEMBED_SLOW_PASSES": "0.1", "PYTHONPATH": f"{ROOT / 'tests/jobs/passes/slow_passes'}:{ROOT}"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    centres, labels = random.standard_normal((12, 32)), random.integers(0, 12, 3000)
    vectors = (centres[labels] + 0.6 * random.standard_normal((3000, 32))).astype(np.float32)
    folder = tmp_path_factory.mktemp("jobs") / "in"
    publish_vectors(folder, vectors, keep={"label": pa.array([f"c{label}" for label in labels])}, shards=12)
    return folder


@pytest.mark.parametrize("job", JOBS)
def test_lost_actors_change_nothing(job: str, source: Path, tmp_path: Path) -> None:
    calm, killed = _run(job, source, tmp_path / "calm", kills=0)
    assert killed == 0
    fire, killed = _run(job, source, tmp_path / "fire", kills=KILLS)
    assert killed >= 1, "an actor was killed in the midst of the passes"
    assert fire == calm


def _run(job: str, source: Path, folder: Path, *, kills: int) -> tuple[tuple[str, Any], int]:
    """(digest of all that was published, facts), and how many actors were killed."""
    folder.mkdir()
    ray = {"address": "local"} | ({"replicas": 2} if kills else {})
    raw: dict[str, Any] = {job: {"snapshot": str(source), **JOBS[job]}, "output": {"uri": str(folder / "out")}}
    raw["cluster"] = raw.get("cluster", {}) | ray
    config, log = folder / "job.yaml", folder / "log"
    config.write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "jobs.cli", job, str(config), "--json"]
    session = Session(command, os.environ | (SLOW if kills else {}), folder / "summary.json", log)
    killed = 0
    try:
        while session.process.poll() is None and killed < kills:
            pids = re.findall(r"actor \d+ ready: node \S+, pid (\d+)", log.read_text() if log.exists() else "")
            if len(pids) >= 2 + killed:
                time.sleep(0.6)
                killed += _kill(int(pids[-1]))
            time.sleep(0.1)
        assert session.process.wait(300) == 0, log.read_text()[-3000:]
    finally:
        session.kill()
    summary = json.loads((folder / "summary.json").read_text())
    return (_digest(Path(summary["data"])), summary["facts"]), killed


def _kill(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _digest(data: Path) -> str:
    """Of names and contents: rows of Parquet files, whose footers name the run, and the bytes of others."""
    sums = hashlib.sha256()
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        sums.update(path.name.encode())
        sums.update(repr(pq.read_table(path).to_pylist()).encode() if path.suffix == ".parquet" else path.read_bytes())
    return sums.hexdigest()

"""A job over a snapshot on a real S3 server: the same bits as on local files, also after a driver that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.drivers import PATIENCE
from tests.sessions import ROOT, Session
from tests.vector_snapshots import publish_vectors
from workers.storage.store import Store

pytestmark = [pytest.mark.s3, pytest.mark.slow]

ROWS, DIM = 2000, 32


def _vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.standard_normal((ROWS, DIM)) * np.linspace(2, 0.2, DIM)).astype(np.float32)


def _start(folder: Path, source: str, output: str, **env: str) -> Session:
    folder.mkdir(exist_ok=True)
    config = folder / "reduce.yaml"
    config.write_text(yaml.safe_dump({"reduce": {"snapshot": source, "dim": 8}, "output": {"uri": output}}))
    command = [sys.executable, "-m", "jobs.cli", "reduce", str(config), "--json"]
    return Session(command, {**os.environ, **env}, folder / "out.json", folder / "log")


def _end(session: Session, folder: Path) -> dict[str, Any]:
    try:
        session.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.fail((folder / "log").read_text()[-3000:])
    finally:
        session.kill()
    assert session.process.returncode == 0, (folder / "log").read_text()[-3000:]
    summary: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return summary


def _bits(output: str, summary: dict[str, Any]) -> bytes:
    store = Store(output, {})
    tables = [
        pq.read_table(pa.BufferReader(store.read(path)), columns=["id", "embedding"])
        for path in sorted(store.list(f"data/{summary['run_id']}"))
    ]
    table = pa.concat_tables(tables).sort_by("id")
    bits: bytes = table.column("embedding").combine_chunks().flatten().to_numpy().tobytes()
    return bits


def test_same_bits_on_s3_and_after_a_kill(tmp_path: Path, s3_bucket: str) -> None:
    local, remote = tmp_path / "in", f"s3://{s3_bucket}/in"
    publish_vectors(local, _vectors(), shards=8)
    publish_vectors(remote, _vectors(), shards=8)
    calm = tmp_path / "calm"
    expected = _bits(str(tmp_path / "out"), _end(_start(calm, str(local), str(tmp_path / "out")), calm))

    output, folder = f"s3://{s3_bucket}/out", tmp_path / "remote"
    slow = {"REEMBED_SLOW_PASSES": "0.3", "PYTHONPATH": f"{ROOT / 'tests/jobs/passes/slow_passes'}:{ROOT}"}
    session = _start(folder, remote, output, **slow)
    store, end = Store(output, {}), time.monotonic() + 60
    try:
        while not any("/passes/" in path for path in store.list("runs")):
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        os.killpg(session.process.pid, signal.SIGKILL)
        session.process.wait()
    finally:
        session.kill()
    for path in store.list("runs/lock"):  # of a driver that is dead
        store.delete(path)
    summary = _end(_start(folder, remote, output), folder)
    assert [item["name"] for item in summary["passes"]] in (["directions"], []), "the first pass was in the journal"
    assert _bits(output, summary) == expected

"""Passes by actors on a real Ray: 1, 2 or 3 of them, one killed in a pass, the driver killed after a pass: the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from tests.drivers import PATIENCE
from tests.ray_nodes import RayCluster
from tests.sessions import ROOT, Session
from tests.vector_snapshots import publish_vectors

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS, DIM = 4000, 48


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    vectors = (random.standard_normal((ROWS, DIM)) * np.linspace(2, 0.2, DIM)).astype(np.float32)
    folder = tmp_path_factory.mktemp("actors") / "in"
    publish_vectors(folder, vectors, shards=16)
    return folder


def _config(folder: Path, source: Path, address: str, replicas: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reduce.yaml"
    raw: dict[str, Any] = {
        "reduce": {"snapshot": str(source), "dim": 12, "vector": "int8"},
        "output": {"uri": str(folder / "out")},
        "cluster": {"address": address, "replicas": replicas},
    }
    path.write_text(yaml.safe_dump(raw))
    return path


def _start(config: Path, **env: str) -> Session:
    command = [sys.executable, "-m", "jobs.cli", "reduce", str(config), "--json"]
    return Session(command, {**os.environ, **env}, config.with_suffix(".json"), config.with_suffix(".log"))


def _end(session: Session, config: Path) -> dict[str, Any]:
    try:
        session.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.fail(config.with_suffix(".log").read_text()[-3000:])
    assert session.process.returncode == 0, config.with_suffix(".log").read_text()[-3000:]
    summary: dict[str, Any] = json.loads(config.with_suffix(".json").read_text())
    return summary


def _bits(summary: dict[str, Any]) -> bytes:
    table = ds.dataset(summary["data"]).to_table(columns=["id", "embedding"]).sort_by("id")
    return table.column("embedding").combine_chunks().flatten().to_numpy().tobytes()


@pytest.fixture(scope="module")
def calm(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """By threads of the driver's own process, without Ray."""
    from jobs.config import load_section
    from jobs.passes.job import run_job
    from jobs.reduce.config import ReduceConfig
    from jobs.reduce.job import Reduce

    folder = tmp_path_factory.mktemp("calm")
    config = _config(folder, source, "local", 1)
    settings = load_section(config, ["cluster.replicas=auto"], ReduceConfig)
    return _bits(run_job(Reduce(settings)))


@pytest.mark.parametrize("replicas", [1, 3])
def test_any_number_of_actors(replicas: int, source: Path, calm: bytes, tmp_path: Path, ray_head: RayCluster) -> None:
    config = _config(tmp_path, source, ray_head.address, replicas)
    session = _start(config)
    try:
        summary = _end(session, config)
    finally:
        session.kill()
    assert _bits(summary) == calm
    assert summary["vector_bytes_read"] >= ROWS * DIM * 4


def test_actors_and_drivers_that_are_killed(source: Path, calm: bytes, tmp_path: Path, ray_head: RayCluster) -> None:
    """Every pass loses an actor; the driver is killed after each of its first passes, and once more while it writes."""
    config = _config(tmp_path, source, ray_head.address, 2)
    log = config.with_suffix(".log")
    slow = {"REEMBED_SLOW_PASSES": "0.15", "PYTHONPATH": f"{Path(__file__).parent / 'slow_passes'}:{ROOT}"}
    killed = 0
    for least in (1, 2, 3):
        earlier = len(_ready(log))  # of drivers before this one
        session = _start(config, **slow)
        try:
            pids = _until(log, session, earlier + 1)
            os.kill(int(pids[-1]), signal.SIGKILL)
            killed += 1
            _passes(tmp_path / "out", session, least)
            os.killpg(session.process.pid, signal.SIGKILL)
            session.process.wait()
        finally:
            session.kill()
        _release(tmp_path / "out")
    session = _start(config)
    try:
        summary = _end(session, config)
    finally:
        session.kill()
    assert killed == 3
    assert len(re.findall(r"actor \d+ lost", log.read_text())) >= 1
    assert _bits(summary) == calm
    assert len(summary["passes"]) == 0, "all passes were in the journal"


def _ready(log: Path) -> list[str]:
    """pids of actors, as they came."""
    return re.findall(r"actor \d+ ready: node \S+, pid (\d+)", log.read_text()) if log.exists() else []


def _until(log: Path, session: Session, count: int) -> list[str]:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and session.process.poll() is None:
        if len(found := _ready(log)) >= count:
            return found
        time.sleep(0.05)
    pytest.fail(log.read_text()[-3000:])


def _passes(output: Path, session: Session, count: int) -> None:
    """Waits until so many passes are in the journal."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and session.process.poll() is None:
        if len(list(output.glob("runs/*/passes/*.npz"))) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"{count} passes were not seen; the driver ended with {session.process.poll()}")


def _release(output: Path) -> None:
    for claim in (output / "runs" / "lock").glob("*.json"):
        claim.unlink()

"""`reembed dedup` by its command: bad input, and a driver that is killed again and again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.config import load_section
from jobs.dedup.config import DedupConfig
from jobs.dedup.job import DedupJob
from jobs.passes.job import run_job
from tests.local_replicas import local_run
from tests.vector_snapshots import publish_vectors
from workers.config import VectorType
from workers.storage.store import Store

ROWS, DIM = 600, 32
SURVIVED = 6  # writes of each driver


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(1)
    centres = random.standard_normal((200, DIM))
    vectors = centres[random.integers(0, 200, ROWS)] + 0.2 * random.standard_normal((ROWS, DIM))
    folder = tmp_path_factory.mktemp("dedup") / "in"
    publish_vectors(folder, vectors.astype(np.float32), shards=3)
    return folder


def _config(folder: Path, snapshot: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "dedup.yaml"
    path.write_text(
        yaml.safe_dump({"dedup": {"snapshot": str(snapshot)} | settings, "output": {"uri": str(folder / "out")}})
    )
    return path


def _run(config: Path) -> dict[str, Any]:
    return run_job(DedupJob(load_section(config, (), DedupConfig)))


def _read(summary: dict[str, Any]) -> pa.Table:
    return ds.dataset(summary["data"]).to_table().sort_by([("id", "ascending")])


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.slow
def test_killed_after_every_few_writes_it_ends_with_the_same_bits(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = _run(_config(tmp_path / "calm", snapshot))
    assert calm["duplicates"] > 100
    config, drivers, left = _config(tmp_path / "killed", snapshot), 0, 0

    def dying(original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            return original(*arguments, **named)

        return call

    for name in ("put", "put_if_absent", "put_file_if_absent"):
        monkeypatch.setattr(Store, name, dying(getattr(Store, name)))
    while True:
        # a pass ends with its journal: a driver must live until there, so the later ones live longer
        drivers, left = drivers + 1, SURVIVED + drivers
        try:
            summary = _run(config)
            break
        except _Killed:
            for claim in (tmp_path / "killed" / "out" / "runs" / "lock").glob("*.json"):
                claim.unlink()
    assert drivers > 4
    assert _read(summary).equals(_read(calm))
    assert {name: summary[name] for name in calm["facts"]} == calm["facts"]
    assert not list((tmp_path / "killed" / "out" / "runs").glob("*/scratch/*")), "scratch goes with publication"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"clusters": 5000}, "dedup.clusters=5000: the snapshot has 600 rows; give fewer, or auto"),
        ({"threshold": 1.5}, "dedup.threshold"),
        ({"keep": "best"}, "dedup.keep"),
        ({"probes": 3}, "probe"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    snapshot: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    ended = local_run("dedup", _config(tmp_path, snapshot, **settings))
    assert (ended.rc, told in ended.log) == (2, True), ended.log
    assert not (tmp_path / "out").exists()


def test_binary_vectors_are_allowed_and_said(tmp_path: Path) -> None:
    signs = np.sign(np.random.default_rng(2).standard_normal((60, 16))).astype(np.float32)
    publish_vectors(tmp_path / "in", signs, shards=2, vector=VectorType.BINARY)
    ended = local_run("dedup", _config(tmp_path, tmp_path / "in"))
    assert "vectors are binary: cosines are those of their signs" in ended.stdout
    assert json.loads(local_run("dedup", tmp_path / "dedup.yaml", "--json").stdout)["unchanged"]


@pytest.mark.s3
@pytest.mark.slow
def test_on_a_real_s3_server_the_same_bits(snapshot: Path, tmp_path: Path, s3_bucket: str) -> None:
    """Records travel through ranges of objects; what the passes left is deleted."""
    calm = _run(_config(tmp_path / "calm", snapshot))
    config = tmp_path / "s3.yaml"
    output = f"s3://{s3_bucket}/dedup"
    config.write_text(yaml.safe_dump({"dedup": {"snapshot": str(snapshot)}, "output": {"uri": output}}))
    summary = _run(config)
    store = Store(output, {})
    parts = sorted(store.list(f"data/{summary['run_id']}"))
    table = pa.concat_tables([pq.read_table(pa.BufferReader(store.read(path))) for path in parts])
    assert table.sort_by([("id", "ascending")]).equals(_read(calm))
    assert not any("/scratch/" in path or "/passes/" in path for path in store.list("runs"))

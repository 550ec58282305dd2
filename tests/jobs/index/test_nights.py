"""The job by its real runner: two nights of which the second has one new part, a job that is killed, and a refusal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.commands.search import search_snapshot
from jobs.commands.verify import verify_snapshot
from jobs.index.job import IndexJob
from jobs.passes.job import run_job
from jobs.publish.open_snapshot import open_published
from tests.jobs.index.index_samples import COUNT, config, mixture
from tests.sessions import ROOT
from tests.vector_snapshots import publish_next, publish_vectors
from workers.errors import RunAborted
from workers.vectors.index.write_files import WriteFiles


class _Embedder:
    def embed(self, texts: list[str]) -> list[np.ndarray]:
        return [mixture(COUNT)[int(text)][None] for text in texts]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("jobs.passes.job.standing_cluster", lambda: None)
    monkeypatch.setattr("jobs.commands.search.load_embedder", lambda *_, **__: _Embedder())
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "cache"))


def _index(output: Path, **section: Any) -> dict[str, Any]:
    return run_job(IndexJob(config(output, **section)))


def _same_hits(output: Path) -> None:
    index = f"{output}.index"
    for text in ("5", "77", "2500"):
        assert search_snapshot(str(output), text, 10, index=index) == search_snapshot(str(output), text, 10)


@pytest.mark.slow
def test_two_nights(tmp_path: Path) -> None:
    output, vectors = tmp_path / "out", mixture(COUNT)
    publish_vectors(output, vectors, shards=4)
    first = _index(output)
    assert first["published"]
    assert (first["files_built"], first["files"], first["vectors"]) == (4, 4, COUNT)
    assert first["bytes"] == sum(file.bytes for file in open_published(f"{output}.index").files)
    _same_hits(output)
    assert _index(output)["unchanged"]
    publish_next(output, {3: -vectors[COUNT * 3 // 4 :]})
    _same_hits(output)  # before the index follows: the new part is searched exactly
    second = _index(output)
    assert (second["files_built"], second["files"], second["reuse"]["carried_shards"]) == (1, 4, 3)
    assert second["vector_bytes_read"] <= first["vector_bytes_read"] / 3
    _same_hits(output)
    assert verify_snapshot(f"{output}.index", 0)["ok"]
    file = next(iter(open_published(f"{output}.index").files))
    path = Path(f"{output}.index") / file.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (finding,) = verify_snapshot(f"{output}.index", 0)["findings"]
    assert file.path in finding


@pytest.mark.slow
def test_rows_that_are_gone_are_never_found_and_their_file_is_built_again_in_time(tmp_path: Path) -> None:
    output, vectors, quarter = tmp_path / "out", mixture(COUNT), COUNT // 4
    publish_vectors(output, vectors, shards=4)
    assert _index(output, rows_per_file=10_000)["files"] == 1, "one group of four shards"
    publish_next(output, {3: -vectors[3 * quarter :]})
    second = _index(output, rows_per_file=10_000)
    assert (second["files"], second["files_built"], second["rows_gone"], second["documents"]) == (2, 1, quarter, COUNT)
    assert second["vector_bytes_read"] == quarter * vectors[0].nbytes
    _same_hits(output)
    report = verify_snapshot(f"{output}.index", 0)
    assert report["ok"]
    assert report["notes"] == ["750 rows in files are no longer in the source's snapshot: no search finds them"]
    publish_next(output, {0: -vectors[:quarter], 1: -vectors[quarter : 2 * quarter]})
    third = _index(output, rows_per_file=10_000)
    assert (third["files"], third["files_built"], third["rows_gone"]) == (1, 1, 0)
    _same_hits(output)


@pytest.mark.slow
def test_a_lost_file_of_which_rows_are_gone_is_built_from_those_that_are_there(tmp_path: Path) -> None:
    output, vectors, quarter = tmp_path / "out", mixture(COUNT), COUNT // 4
    publish_vectors(output, vectors, shards=4)
    _index(output, rows_per_file=10_000)
    (file,) = open_published(f"{output}.index").files
    (Path(f"{output}.index") / file.path).unlink()
    publish_next(output, {3: -vectors[3 * quarter :]})
    again = _index(output, rows_per_file=10_000)
    assert (again["files"], again["files_built"], again["rows_gone"]) == (1, 1, 0)
    _same_hits(output)


DIES = """
import os, sys, jobs.passes.job as job
from pathlib import Path
from jobs.index.job import IndexJob
from tests.jobs.index.index_samples import config
job.standing_cluster = lambda: None
job.write_summary = lambda *_: os.kill(os.getpid(), 9)
job.run_job(IndexJob(config(Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_a_driver_that_dies_after_its_publication_ends_the_same_night(tmp_path: Path) -> None:
    vectors, nights = mixture(COUNT), {}
    for name in ("calm", "killed"):
        output = tmp_path / name
        publish_vectors(output, vectors, shards=4)
        _index(output)
        publish_next(output, {3: -vectors[COUNT * 3 // 4 :]})
        if name == "killed":
            command = [sys.executable, "-c", DIES, str(output)]
            dead = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
            assert dead.returncode == -signal.SIGKILL, dead.stderr
        summary = _index(output)
        begun = sorted(Path(f"{output}.index/runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
        runs = [path.parent.name for path in begun]  # their names tell the second
        files = sorted((file.path.rpartition("/")[2], file.bytes) for file in open_published(f"{output}.index").files)
        nights[name] = (len(runs), runs[-1] == summary["run_id"], summary["files_built"], summary["facts"], files)
    assert nights["killed"] == nights["calm"]
    assert nights["calm"][:3] == (2, True, 1)


@pytest.mark.slow
def test_a_killed_job_goes_on_with_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    publish_vectors(output, mixture(COUNT), shards=4)
    real = WriteFiles.files

    def die(self: WriteFiles, rows: Any, desk: Any) -> Any:
        if rows.number >= 2:
            raise RuntimeError("killed")
        return real(self, rows, desk)

    monkeypatch.setattr(WriteFiles, "files", die)
    with pytest.raises(RunAborted):
        _index(output)
    monkeypatch.setattr(WriteFiles, "files", real)

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("workers.vectors.index.build_files.build", refuse)
    assert _index(output)["published"]
    _same_hits(output)


def test_low_recall_is_not_published(tmp_path: Path) -> None:
    output = tmp_path / "out"
    publish_vectors(output, mixture(COUNT), shards=2)
    summary = _index(output, connectivity=2, expansion=1, precision="i8", min_recall=1.0)
    assert not summary["published"]
    assert "index.min_recall=1.0" in summary["reasons"][0]

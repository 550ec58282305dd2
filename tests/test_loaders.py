"""deploy/loaders: what a store holds is the snapshot, row by row, whatever was killed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.changes import acknowledge, find_changes
from jobs.publish.consumers import Consumers
from jobs.publish.open_snapshot import open_published
from tests.jobs.snapshot_samples import Killed
from tests.vector_snapshots import publish_next, publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.storage.store import Store

ROOT = Path(__file__).resolve().parent.parent
LOADER = ROOT / "deploy" / "loaders" / "usearch_file.py"
ROWS = 200


def _changes(output: str, *arguments: str) -> dict[str, Any]:
    """The command, in this process."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    if "--ack" in given:
        return acknowledge(output, given["--consumer"], given["--ack"])
    return find_changes(output, into=given["--into"], consumer=given["--consumer"])


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("usearch_file")  # not imported: bytecode would stay in deploy/
    exec(compile(LOADER.read_text(), str(LOADER), "exec"), module.__dict__)
    monkeypatch.setattr(module, "changes", _changes)
    return module


def _first(output: Path) -> None:
    keep = {"lang": pa.array(["de", "fr"] * (ROWS // 2))}
    publish_vectors(output, unit_vectors(ROWS), shards=4, keep=keep)


def _second(output: Path) -> None:
    """Twenty rows of a shard have other vectors."""
    run = open_published(str(output))
    table = pq.read_table(pa.BufferReader(run.store.read(run.receipts[1].files[0].path)))
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    vectors[:20] = unit_vectors(20, seed=9)
    publish_next(output, {1: vectors})


def _equals_snapshot(loader: ModuleType, output: Path, folder: Path) -> None:
    run = open_published(str(output))
    table = pa.concat_tables([pq.read_table(pa.BufferReader(run.store.read(file.path))) for file in run.files])
    loaded = loader.Loaded(folder)
    assert loaded.run_id == run.run_id
    stored = {id_: (key, json.loads(cells)) for key, id_, cells in loaded.table.execute("SELECT key, id, cells FROM rows")}
    index = loader.Index.restore(folder / loaded.file)
    assert (len(stored), len(index)) == (len(table), len(table))
    for row in table.to_pylist():
        key, cells = stored[row["id"]]
        assert (index.get(key) == np.array(row["embedding"], np.float32)).all()
        assert (cells["lang"], cells["text_hash"]) == (row["lang"], row["text_hash"].hex())
    ((id_, chunk, distance), *_) = loaded.search(np.array(table["embedding"][3].as_py(), np.float32), 3)
    assert (id_, chunk) == (table["id"][3].as_py(), -1)
    assert distance < 1e-5
    assert [path.name for path in folder.glob("*.usearch")] == [loaded.file]


def test_two_nights(loader: ModuleType, tmp_path: Path) -> None:
    output, folder = tmp_path / "out", tmp_path / "store"
    _first(output)
    assert loader.load(str(output), folder, "u")["added"] == ROWS
    _equals_snapshot(loader, output, folder)
    _second(output)
    report = loader.load(str(output), folder, "u")
    assert (report["added"], report["changed"]) == (0, 20)
    _equals_snapshot(loader, output, folder)
    again = loader.load(str(output), folder, "u")
    assert (again["changed"], again["files"]) == (0, [])
    _equals_snapshot(loader, output, folder)


def test_killed_at_each_step(loader: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _first(output)
    folders = {name: tmp_path / name for name in ("delete", "upsert", "save", "rows", "ack", "tidy")}
    for name, folder in folders.items():
        loader.load(str(output), folder, name)
    _second(output)

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    def dying_ack(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: die() if "--ack" in arguments else real(*arguments)

    targets: dict[str, tuple[Any, str, Any]] = {
        "delete": (loader.Loaded, "_delete", die),
        "upsert": (loader.Index, "add", die),
        "save": (loader.Index, "save", die),
        "rows": (loader.Loaded, "rows", die),
        "ack": (loader, "changes", dying_ack(_changes)),
        "tidy": (loader.Loaded, "tidy", die),
    }
    for name, folder in folders.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*targets[name])
            with pytest.raises(Killed):
                loader.load(str(output), folder, name)
        known = Consumers(Store(str(output), {})).read(name)
        assert known is not None
        assert (known.handed is None) == (name == "tidy")
        loader.load(str(output), folder, name)
        _equals_snapshot(loader, output, folder)


def test_a_store_in_another_state_is_refused(loader: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _first(output)
    loader.load(str(output), tmp_path / "store", "u")
    with pytest.raises(SystemExit, match="the change set begins at None"):
        loader.load(str(output), tmp_path / "store", "other") if _second(output) is None else None


@pytest.mark.slow
def test_by_the_command(tmp_path: Path) -> None:
    _first(tmp_path / "out")
    command = [sys.executable, str(LOADER), str(tmp_path / "out"), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert "'added': 200" in done.stdout

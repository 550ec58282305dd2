"""`reembed reduce` by its command: what readers get, the second night, bad input, and a driver that is killed anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.config import load_section
from jobs.passes.job import run_job
from jobs.reduce.config import ReduceConfig
from jobs.reduce.job import Reduce
from tests.local_replicas import local_run
from tests.vector_snapshots import publish_next, publish_vectors
from workers.config import VectorType
from workers.storage.store import Store

ROWS, DIM = 600, 32


def _vectors(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((rows, DIM)) * np.linspace(3, 0.1, DIM)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def _config(folder: Path, **settings: Any) -> Path:
    path = folder / "reduce.yaml"
    section = {"snapshot": str(folder / "in"), "dim": 8} | settings
    path.write_text(yaml.safe_dump({"reduce": section, "output": {"uri": str(folder / "out")}}))
    return path


def _run(config: Path) -> dict[str, Any]:
    return run_job(Reduce(load_section(config, (), ReduceConfig)))


def _read(summary: dict[str, Any]) -> pa.Table:
    return ds.dataset(summary["data"], partitioning="hive").to_table().sort_by([("id", "ascending")])


def _matrix(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)


def _expected(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Cosines of all pairs after projection onto the leading singular vectors, by NumPy alone."""
    _, _, right = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    projected = vectors.astype(np.float64) @ right[:dim].T
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    return unit @ unit.T


def test_readers_get_the_same_rows_with_fewer_components(tmp_path: Path) -> None:
    vectors = _vectors()
    langs = pa.array(["de", "fr"] * (ROWS // 2))
    publish_vectors(tmp_path / "in", vectors, keep={"lang": langs}, partition_by=["lang"], part_bytes=8192)
    summary = _run(_config(tmp_path))
    assert (summary["published"], summary["dim"], summary["rows"]) == (True, 8, ROWS)
    source = ds.dataset(str(tmp_path / "in" / "data"), partitioning="hive").to_table().sort_by([("id", "ascending")])
    made = _read(summary)
    assert made.column("id").equals(source.column("id"))
    assert made.column("text_hash").equals(source.column("text_hash"))
    assert made.column("lang").to_pylist() == source.column("lang").to_pylist()
    rows = _matrix(made)
    np.testing.assert_allclose(rows @ rows.T, _expected(_matrix(source), 8), atol=2e-6)
    assert local_run("verify", tmp_path / "out").rc == 0
    listed = json.loads(local_run("snapshots", tmp_path / "out", "--json").stdout)["snapshots"]
    assert [(item["current"], item["model"]["dim"]) for item in listed] == [(True, 8)]


@pytest.mark.parametrize("vector", ["float16", "int8", "binary"])
def test_other_types(vector: str, tmp_path: Path) -> None:
    vectors = _vectors()
    publish_vectors(tmp_path / "in", vectors)
    summary = _run(_config(tmp_path, vector=vector))
    cells = _matrix(_read(summary))
    assert summary["model"]["vector"] == vector
    if vector == "binary":
        assert cells.shape == (ROWS, 1)
        return
    scale = summary["model"]["int8_scale"] or 1.0
    rows = cells.astype(np.float64) * scale
    source = _matrix(ds.dataset(str(tmp_path / "in" / "data")).to_table().sort_by([("id", "ascending")]))
    np.testing.assert_allclose(rows @ rows.T, _expected(source, 8), atol={"float16": 2e-3, "int8": 2e-2}[vector])


def test_a_share_of_the_energy(tmp_path: Path) -> None:
    vectors = _vectors()
    publish_vectors(tmp_path / "in", vectors)
    summary = _run(_config(tmp_path, dim=0.9))
    singular = np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2
    least = int(np.searchsorted(np.cumsum(singular) / singular.sum(), 0.9)) + 1
    assert summary["dim"] == least
    assert summary["energy"] == pytest.approx((np.cumsum(singular) / singular.sum())[least - 1], abs=1e-6)


@pytest.mark.slow
def test_the_second_night_projects_only_what_is_new(tmp_path: Path) -> None:
    vectors = _vectors()
    publish_vectors(tmp_path / "in", vectors, shards=6)
    first = _run(_config(tmp_path, max_drift=0.2))
    assert _run(_config(tmp_path, max_drift=0.2))["unchanged"], "nothing to do"
    publish_next(tmp_path / "in", {5: _vectors(1, 100)})
    second = _run(_config(tmp_path, max_drift=0.2))
    assert second["reuse"] == {"base": first["run_id"], "carried_shards": 5}
    assert second["vector_bytes_read"] == 100 * DIM * 4
    before, after = _matrix(_read(first)), _matrix(_read(second))
    new = np.array([int(name) >= 500 for name in _read(second).column("id").to_pylist()])
    assert (before[~new] == after[~new]).all()
    assert local_run("verify", tmp_path / "out").rc == 0
    rolled = local_run("rollback", tmp_path / "out", first["run_id"])
    assert rolled.rc == 0, rolled.log
    assert _run(_config(tmp_path, state="refit"))["reuse"]["carried_shards"] == 0


def test_directions_that_no_longer_serve_are_found_anew(tmp_path: Path) -> None:
    vectors = _vectors()
    publish_vectors(tmp_path / "in", vectors, shards=6)
    first = _run(_config(tmp_path))
    publish_next(tmp_path / "in", {5: _vectors(1, 100)[:, ::-1]})  # other directions carry the energy
    second = _run(_config(tmp_path))
    assert second["reuse"]["carried_shards"] == 0
    assert second["drift"] > 0.02
    assert (first["drift"], second["dim"]) == (None, 8)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dim": 33}, "reduce.dim=33: the snapshot's vectors have 32 components"),
        ({"dim": 12, "vector": "binary"}, "use a multiple of 8"),
        ({"dim": 0}, "reduce.dim"),
        ({"snapshot": "nowhere"}, "nothing is published there"),
        ({"dims": 3}, "did you mean dim"),
    ],
)
def test_bad_input_is_one_line(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    publish_vectors(tmp_path / "in", _vectors(rows=40))
    ended = local_run("reduce", _config(tmp_path, **settings))
    assert ended.rc == 2, ended.log
    assert told in ended.log
    assert len(ended.log.strip().splitlines()) == 1, ended.log
    assert not (tmp_path / "out" / "data").exists()


def test_a_reduced_snapshot_is_not_reduced_again(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "in", _vectors(rows=40))
    _run(_config(tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    ended = local_run("reduce", _config(again, snapshot=str(tmp_path / "out")))
    assert (ended.rc, "reduce the snapshot that it was made from" in ended.log) == (2, True)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.slow
def test_killed_at_every_write_it_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_vectors(tmp_path / "in", _vectors(), shards=3)
    calm = _matrix(_read(_run(_config(tmp_path))))
    writes = 0

    def counted(limit: int) -> None:
        nonlocal writes
        writes += 1
        if writes > limit:
            raise _Killed

    put, put_if_absent = Store.put, Store.put_if_absent
    put_file = Store.put_file_if_absent
    for limit in range(0, 90, 4):
        folder = tmp_path / f"killed-{limit}"
        folder.mkdir()
        config = _config(folder, snapshot=str(tmp_path / "in"))
        writes = 0
        with monkeypatch.context() as patch:
            for name, original in (("put", put), ("put_if_absent", put_if_absent), ("put_file_if_absent", put_file)):
                patch.setattr(Store, name, _dying(original, lambda limit=limit: counted(limit)))  # type: ignore[misc]
            try:
                _run(config)
                break
            except _Killed:
                pass
        _release(folder / "out")
        assert (_matrix(_read(_run(config))) == calm).all(), limit
    else:
        pytest.fail("never ran to its end")
    assert limit > 9


def _dying(original: Any, count: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        count()
        return original(*arguments, **named)

    return call


def _release(output: Path) -> None:
    """The lock of a driver that is dead."""
    for claim in (output / "runs" / "lock").glob("*.json"):
        claim.unlink()


def test_vector_types_are_all_known() -> None:
    assert {item.value for item in VectorType} == {"float32", "float16", "int8", "binary"}

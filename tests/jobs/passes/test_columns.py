"""Jobs over one of several columns of vectors: as over a snapshot that has that column alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from jobs.config import load_section
from jobs.passes.derived_run import fingerprint
from jobs.passes.job import run_job
from jobs.passes.source import SourceSnapshot
from jobs.publish.open_snapshot import open_published
from jobs.reduce.config import ReduceConfig
from jobs.reduce.job import Reduce
from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.config import VectorType
from workers.errors import UsageError
from workers.snapshot.vectors import iterate_vectors

ROWS, DIM, CUT = 300, 32, 16
BESIDE: list[dict[str, Any]] = [{"name": "cut", "dim": CUT, "type": "float32"}, {"name": "codes", "type": "int8"}]


def heads(vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :CUT] / np.linalg.norm(vectors[:, :CUT].astype(np.float64), axis=1, keepdims=True)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One with several columns, and one with the column `cut` alone, as `embedding`."""
    folder, vectors = tmp_path_factory.mktemp("columns"), unit_vectors(ROWS, DIM)
    publish_vectors(folder / "several", vectors, beside=BESIDE)
    publish_vectors(folder / "alone", heads(vectors).astype(np.float32))
    return str(folder / "several"), str(folder / "alone")


def test_the_public_iterator_reads_the_column_of_a_view(outputs: tuple[str, str]) -> None:
    run, vectors = open_published(outputs[0]), unit_vectors(ROWS, DIM)
    paths = [file.path for file in run.files]
    codes = np.clip(np.rint(vectors / 0.01), -127, 127) * 0.01
    for name, expected in (("embedding", vectors), ("cut", heads(vectors)), ("codes", codes)):
        batches = list(iterate_vectors(run.store, paths, run.schema.view(name), ["id"]))
        np.testing.assert_allclose(np.concatenate([batch.vectors for batch in batches]), expected, atol=1e-6)
    for name in ("embedding", "cut"):
        with pytest.raises(UsageError, match=f"no column '{name}' beside its vectors; it has id, num_tokens, truncated"):
            next(iterate_vectors(run.store, paths, run.schema, [name]))


def _reduced(folder: Path, snapshot: str, **settings: Any) -> tuple[np.ndarray, str]:
    path = folder / "reduce.yaml"
    path.write_text(
        yaml.safe_dump({"reduce": {"snapshot": snapshot, "dim": 4} | settings, "output": {"uri": str(folder / "out")}})
    )
    summary = run_job(Reduce(load_section(path, (), ReduceConfig)))
    table = ds.dataset(summary["data"], partitioning="hive").to_table().sort_by("id")
    assert table.column_names == ["id", "embedding", "num_tokens", "truncated", "text_hash"]
    return table["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, 4), str(folder / "out")


def test_reduce_of_a_column_is_reduce_of_a_snapshot_of_it(outputs: tuple[str, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    found, output = _reduced(tmp_path / "one", outputs[0], column="cut")
    expected, _ = _reduced(tmp_path / "two", outputs[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    run = open_published(output)
    assert (run.stamp.dim, run.stamp.vectors, run.record.column) == (4, "", "cut")
    assert [form.column for form in run.source_stamp.formats] == ["embedding", "cut", "codes"]


@pytest.mark.slow
def test_a_query_is_cut_before_it_is_projected(
    outputs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, output = _reduced(tmp_path, outputs[0], column="cut")
    asked: list[Any] = []
    monkeypatch.setattr("workers.replica.embedder.Embedder", lambda *_, projection, **__: asked.append(projection))
    from jobs.publish.open_snapshot import load_embedder

    load_embedder(open_published(output))
    load_embedder(open_published(outputs[0]), column="cut")
    load_embedder(open_published(outputs[0]))
    vectors = unit_vectors(ROWS, DIM)
    order = np.argsort([str(row) for row in range(ROWS)])
    np.testing.assert_allclose(asked[0](vectors)[order], found, atol=1e-5)
    np.testing.assert_allclose(asked[1](vectors), heads(vectors), atol=1e-6)
    assert asked[2] is None


def test_the_settings_of_runs_begun_before_are_what_they_were(outputs: tuple[str, str]) -> None:
    def kind(**settings: Any) -> Reduce:
        raw = {"reduce": {"snapshot": outputs[0], "dim": 4} | settings, "output": {"uri": "out"}}
        return Reduce(ReduceConfig.model_validate(raw))

    assert "column" not in kind().settings()
    prints = {
        fingerprint(kind(column=column), SourceSnapshot.open(outputs[0], {}, "reduce.snapshot", column))
        for column in (None, "cut", "codes")
    }
    assert len(prints) == 3


def test_a_column_that_is_not_there(outputs: tuple[str, str]) -> None:
    with pytest.raises(
        UsageError, match=r"^reduce\.column=id: the snapshot's columns of vectors are embedding, cut, codes$"
    ):
        SourceSnapshot.open(outputs[0], {}, "reduce.snapshot", "id")
    with pytest.raises(UsageError, match=r"^gate\.evaluate\.column=x: the snapshot's columns"):
        SourceSnapshot.of_run(open_published(outputs[0]), {}, "gate.evaluate.snapshot", "x")
    source = SourceSnapshot.open(outputs[0], {}, "evaluate.snapshot")
    with pytest.raises(UsageError, match=r"evaluate\.label: cut is not in the snapshot"):
        source.require_columns(["cut"], "evaluate.label")
    assert SourceSnapshot.open(outputs[0], {}, "snapshot", "codes").schema.vector_format.vector is VectorType.INT8

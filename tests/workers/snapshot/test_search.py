"""Exact search over written parts: the same neighbours as one big matrix product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import INT8_SCALE, append, assignment, draft_for, rows, schema, unit_vectors
from workers.config import Pooling, VectorType
from workers.snapshot.search import nearest
from workers.storage.store import Store
from workers.table.schema import OutputSchema
from workers.table.vectors import as_float32
from workers.writing.writer import ShardWriter


def write(tmp_path: Path, shape: OutputSchema, count: int, **kept: list[str | None]) -> tuple[Store, list[str], pa.Table]:
    """Two shards of `count` rows each, small parts."""
    store, tables = Store(str(tmp_path / "out"), {}), []
    paths: list[str] = []
    for shard in (1, 2):
        task = assignment(shard=shard)
        writer = ShardWriter(store, task, shape, tmp_path / "spool", part_bytes=4096)
        table = rows(shape, count, seed=shard, start=shard * 1000, **kept)
        append(writer, shape, table)
        paths += [file.path for file in writer.finish(draft_for(task, count)).files]
        tables.append(table)
    return store, paths, pa.concat_tables(tables)


@pytest.mark.parametrize("vector", list(VectorType))
def test_the_k_best_of_all_parts(tmp_path: Path, vector: VectorType) -> None:
    shape = schema({"lang": pa.string()}, ["lang"], vector=vector, int8_scale=INT8_SCALE)
    langs: list[str | None] = [("de", None, "a/b")[n % 3] for n in range(150)]
    store, paths, table = write(tmp_path, shape, 150, lang=langs)
    query = unit_vectors(1, seed=9)
    hits = nearest(store, paths, shape, query, 7)
    matrix = as_float32(table.column("embedding"), vector, INT8_SCALE)
    cosine = (matrix @ query[0]) / np.linalg.norm(matrix, axis=1)
    best = np.sort(cosine)[::-1][:7]
    assert [hit["score"] for hit in hits] == pytest.approx(best, abs=1e-5)
    ids, kept = table.column("id").to_pylist(), table.column("lang").to_pylist()
    for hit in hits:  # ties may come in any order; each hit's own columns must be its own
        row = ids.index(hit["id"])
        assert hit["score"] == pytest.approx(cosine[row], abs=1e-5)
        assert hit["lang"] == kept[row]
        assert "embedding" not in hit


def test_fewer_rows_than_k(tmp_path: Path) -> None:
    store, paths, _ = write(tmp_path, schema(), 2)
    assert len(nearest(store, paths, schema(), unit_vectors(1), 10)) == 4


def test_tokens_score_by_late_interaction(tmp_path: Path) -> None:
    shape = schema(pooling=Pooling.TOKENS)
    store, paths, table = write(tmp_path, shape, 40)
    query = unit_vectors(3, seed=5)
    hits = nearest(store, paths, shape, query, 3)
    expected = {}
    for name, vectors in zip(table.column("id").to_pylist(), table.column("embedding").to_pylist(), strict=True):
        expected[name] = float((np.array(vectors) @ query.T).max(axis=0).mean())
    best = sorted(expected.values(), reverse=True)[:3]
    assert [hit["score"] for hit in hits] == pytest.approx(best, abs=1e-5)
    assert all(hit["score"] == pytest.approx(expected[hit["id"]], abs=1e-5) for hit in hits)

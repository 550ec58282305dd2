"""Exact search over written parts: the same neighbours as one big matrix product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.workers.output_samples import INT8_SCALE, append, assignment, draft_for, rows, schema, unit_vectors
from workers.config import Pooling, VectorType
from workers.errors import UsageError
from workers.snapshot.search import nearest
from workers.snapshot.vectors import iterate_vectors
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.table.schema import OutputSchema
from workers.table.sparse import sparse_columns
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


def test_sparse_vectors_score_by_dot_product(tmp_path: Path) -> None:
    """Lengths count: no vector is divided by its own. A row that shares no word with the query has 0."""
    shape = schema({"lang": pa.string()}, pooling=Pooling.SPARSE)
    dense = np.random.default_rng(3).random((40, 16)).astype(np.float32)
    dense[dense < 0.7] = 0
    dense[:, 0] += np.float32(0.01)  # no row is all zeros
    langs: list[str | None] = [("de", "fr")[row % 2] for row in range(40)]
    store, paths, table = write_sparse(tmp_path, shape, dense, langs)
    query = np.zeros((1, 16), np.float32)
    query[0, [2, 5, 11]] = 3, 0.5, 7
    scores = dense.astype(np.float64) @ query[0].astype(np.float64)
    hits = nearest(store, paths, shape, query, 6)
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:6], abs=1e-5)
    ids = table.column("id").to_pylist()
    assert all(hit["score"] == pytest.approx(scores[ids.index(hit["id"])], abs=1e-5) for hit in hits)
    assert set(hits[0]) == {"score", "id", "num_tokens", "truncated", "lang"}
    french = nearest(store, paths, shape, query, 50, Where.parse("lang = 'fr'", shape.plain))
    assert len(french) == 20
    assert [hit["score"] for hit in french] == pytest.approx(np.sort(scores[1::2])[::-1], abs=1e-5)
    rows = next(iterate_vectors(store, paths, shape, token_vectors=True))
    assert rows.indices is not None
    with pytest.raises(UsageError, match=r"a sparse vector a row \(model\.pooling: sparse\); one vector a row is needed"):
        next(iterate_vectors(store, paths, shape))


def write_sparse(
    tmp_path: Path, shape: OutputSchema, dense: np.ndarray, langs: list[str | None]
) -> tuple[Store, list[str], pa.Table]:
    """One shard, a few parts."""
    store, task, count = Store(str(tmp_path / "out"), {}), assignment(), len(dense)
    row, index = np.nonzero(dense)
    indices, weights = sparse_columns(dense[row, index], index.astype(np.int32), np.bincount(row, minlength=count))
    plain = rows(schema({"lang": pa.string()}), count, lang=langs)
    columns = {name: plain[name] for name in plain.column_names if name != "embedding"}
    columns |= {"indices": indices, "weights": weights}
    table = pa.table([columns[name] for name in shape.rows.names], schema=shape.rows)
    writer = ShardWriter(store, task, shape, tmp_path / "spool", part_bytes=512)
    append(writer, shape, table)
    paths = [file.path for file in writer.finish(draft_for(task, count)).files]
    assert len(paths) > 1
    return store, paths, table

"""Every vector of a snapshot, against what other readers see: pyarrow.dataset for all types, DuckDB for what it can read."""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from tests.workers.output_samples import INT8_SCALE, RUN, append, assignment, draft_for, rows, schema
from workers.config import LongText, Pooling, VectorType
from workers.errors import ObjectError, UsageError
from workers.snapshot.vectors import VectorBatch, iterate_vectors
from workers.storage.store import Store
from workers.table.schema import OutputSchema
from workers.writing.writer import ShardWriter

TINY = 4096  # bytes of a part, or of a batch: a few rows


def write(tmp_path: Path, shape: OutputSchema, count: int, **kept: Sequence[Any]) -> tuple[Store, list[str]]:
    """Two shards of `count` rows each, small parts."""
    store, paths = Store(str(tmp_path / "out"), {}), []
    for shard in (1, 2):
        task = assignment(shard=shard)
        writer = ShardWriter(store, task, shape, tmp_path / "spill", part_bytes=1024)
        append(writer, shape, rows(shape, count, seed=shard, start=shard * 1000, **kept))
        paths += [file.path for file in writer.finish(draft_for(task, count)).files]
    return store, paths


def decoded(cell: Any, vector: VectorType) -> list[float]:
    """One stored vector by its documented meaning, component by component."""
    if vector is VectorType.INT8:
        return [number * INT8_SCALE for number in cell]
    if vector is VectorType.BINARY:
        return [1.0 if byte >> (7 - bit) & 1 else -1.0 for byte in cell for bit in range(8)]
    return [float(number) for number in cell]


def by_id(batches: Sequence[VectorBatch]) -> dict[str, np.ndarray]:
    """[V, D] of each row."""
    cells: dict[str, np.ndarray] = {}
    for batch in batches:
        assert batch.vectors.dtype == np.float32
        counts = [1] * len(batch) if batch.counts is None else batch.counts.tolist()
        assert sum(counts) == len(batch.vectors)
        ends = np.cumsum(counts)
        for name, end, count in zip(batch.columns["id"].to_pylist(), ends, counts, strict=True):
            assert name not in cells
            cells[name] = batch.vectors[end - count : end]
    return cells


@pytest.mark.parametrize("vector", list(VectorType))
@pytest.mark.parametrize("batch_bytes", [1, TINY, 16 << 20])
def test_every_vector_once(tmp_path: Path, vector: VectorType, batch_bytes: int) -> None:
    shape = schema({"lang": pa.string()}, ["lang"], vector=vector, int8_scale=INT8_SCALE)
    langs = [("de", None, "a/b")[n % 3] for n in range(150)]
    store, paths = write(tmp_path, shape, 150, lang=langs)
    assert len(paths) >= 6
    batches = list(iterate_vectors(store, paths, shape, ["id", "num_tokens", "lang"], batch_bytes=batch_bytes))
    folder = store.uri_of(f"data/{RUN}")
    seen = ds.dataset(folder, partitioning="hive").to_table().to_pylist()
    vectors = by_id(batches)
    assert sorted(vectors) == sorted(row["id"] for row in seen)
    for row in seen:
        np.testing.assert_allclose(vectors[row["id"]], [decoded(row["embedding"], vector)], rtol=1e-6)
    told = pa.concat_tables([batch.columns for batch in batches])
    assert told.schema.names == ["id", "num_tokens", "lang"]
    query = f"SELECT id, num_tokens, lang FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true)"
    assert sorted(told.to_pylist(), key=lambda row: row["id"]) == sorted(
        duckdb.sql(query).to_arrow_table().to_pylist(), key=lambda row: row["id"]
    )
    assert [path for path, _ in itertools.groupby(batch.path for batch in batches)] == paths
    for path, group in itertools.groupby(batches, key=lambda batch: batch.path):
        first = 0
        for batch in group:
            assert batch.first_row == first, path
            first += len(batch)
    if batch_bytes == 1:
        assert all(len(batch) == 1 for batch in batches)
    if batch_bytes == TINY:
        assert max(batch.vectors.nbytes for batch in batches) <= TINY


def test_vectors_alone(tmp_path: Path) -> None:
    store, paths = write(tmp_path, schema(), 5)
    (one, two) = iterate_vectors(store, paths, schema())
    assert (one.columns.num_columns, len(one), one.vectors.shape) == (0, 5, (5, 16))
    names = duckdb.sql(f"SELECT embedding FROM '{store.uri_of(paths[1])}'").fetchall()
    np.testing.assert_array_equal(two.vectors, np.array([cells for (cells,) in names], np.float32))
    assert list(iterate_vectors(store, [], schema())) == []


@pytest.mark.parametrize("vector", list(VectorType))
def test_lists_of_vectors_only_when_asked_for(tmp_path: Path, vector: VectorType) -> None:
    shape = schema(pooling=Pooling.TOKENS, vector=vector, int8_scale=INT8_SCALE)
    store, paths = write(tmp_path, shape, 30)
    with pytest.raises(UsageError, match=r"list of vectors a row \(model.pooling: tokens\)"):
        next(iterate_vectors(store, paths, shape))
    batches = list(iterate_vectors(store, paths, shape, ["id", "tokens"], token_vectors=True, batch_bytes=256))
    assert len(batches) > len(paths)
    vectors = by_id(batches)
    seen = ds.dataset(store.uri_of(f"data/{RUN}")).to_table().to_pylist()
    assert len(vectors) == len(seen) == 60
    for row in seen:
        np.testing.assert_allclose(vectors[row["id"]], [decoded(cell, vector) for cell in row["embedding"]], rtol=1e-6)


def test_chunks_are_rows(tmp_path: Path) -> None:
    shape = schema(long_text=LongText.CHUNKS)
    store, paths = write(tmp_path, shape, 10)
    (one, _) = iterate_vectors(store, paths, shape, ["chunk_end", "id", "chunk"])
    assert one.columns.schema.names == ["chunk_end", "id", "chunk"]
    assert one.columns["chunk_end"].to_pylist() == [9] * 10


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["de", None, "", "a/b=c%", "__HIVE_DEFAULT_PARTITION__", "x" * 400]),
        (pa.large_string(), ["de", None, "ü"]),
        (pa.dictionary(pa.int8(), pa.string()), ["de", None, "fr"]),
        (pa.int16(), [-3, None, 7]),
        (pa.uint64(), [2**64 - 1, None, 0]),
        (pa.bool_(), [True, None, False]),
        (pa.date32(), [datetime.date(2024, 1, 31), None, datetime.date(1969, 12, 31)]),
        (pa.timestamp("us"), [datetime.datetime(2024, 1, 31, 12, 30, 1, 5), None]),
        (pa.timestamp("ms", "UTC"), [datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC), None]),
        (pa.time64("us"), [datetime.time(12, 30, 1, 5), None]),
        (pa.decimal128(10, 2), [decimal.Decimal("12.30"), None, decimal.Decimal("-0.01")]),
    ],
    ids=str,
)
def test_partition_columns_come_back_in_full_and_in_their_type(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    shape = schema({"kept": kind, "plain": pa.string()}, ["kept"])
    cells = [values[n % len(values)] for n in range(20)]
    store, paths = write(tmp_path, shape, 20, kept=cells, plain=[repr(cell) for cell in cells])
    batches = list(iterate_vectors(store, paths, shape, ["plain", "kept"], batch_bytes=TINY))
    table = pa.concat_tables([batch.columns for batch in batches])
    assert table.schema.field("kept").type == kind
    held = {repr(cell): kept for cell, kept in zip(cells, pa.array(cells, kind).to_pylist(), strict=True)}
    assert len(held) == len(values)
    assert table["kept"].to_pylist() == [held[text] for text in table["plain"].to_pylist()]


def test_two_partition_columns_and_one_of_them_asked_for(tmp_path: Path) -> None:
    shape = schema({"a": pa.int32(), "b": pa.string()}, ["a", "b"])
    store, paths = write(tmp_path, shape, 12, a=[n % 2 for n in range(12)], b=["x", "y", "z"] * 4)
    told = pa.concat_tables([batch.columns for batch in iterate_vectors(store, paths, shape, ["b", "id"])]).to_pylist()
    seen = ds.dataset(store.uri_of(f"data/{RUN}"), partitioning="hive").to_table(columns=["b", "id"]).to_pylist()
    assert sorted(told, key=lambda row: row["id"]) == sorted(seen, key=lambda row: row["id"])


def test_what_is_refused(tmp_path: Path) -> None:
    shape = schema({"lang": pa.string()})
    store, paths = write(tmp_path, shape, 5, lang=["de"] * 5)
    for name in ("nope", "embedding"):
        with pytest.raises(UsageError, match=f"no column '{name}' beside its vectors; it has id, .*lang"):
            next(iterate_vectors(store, paths, shape, ["id", name]))
    with pytest.raises(FileNotFoundError):
        next(iterate_vectors(store, ["data/run-1/part-0000009.parquet"], shape))
    other = schema({"lang": pa.string(), "more": pa.string()})
    with pytest.raises(ObjectError, match="damaged"):
        next(iterate_vectors(store, paths, other, ["more"]))
    data = store.read(paths[0])
    store.put(paths[0], data[: len(data) // 2])
    with pytest.raises(ObjectError, match=r"part-0000001\.parquet: damaged \("):
        next(iterate_vectors(store, paths, shape))


def test_a_row_without_a_vector_is_damage(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store, (path, _) = write(tmp_path, schema(), 5)
    uri = store.uri_of(path)
    table = pq.read_table(uri)
    kind = table.schema.field("embedding").type
    cells = [None, *table["embedding"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, pa.field("embedding", kind), pa.array(cells, kind)), uri)
    with pytest.raises(ObjectError, match="a row without a vector"):
        next(iterate_vectors(store, [path], schema()))

"""Passes over a real snapshot in this process: sums against NumPy on everything, the journal, and the order of sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors
from workers.config import VectorType
from workers.errors import UsageError
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step, UnitStep
from workers.vectors.workplace import Workplace

ROWS, DIM = 1000, 24


@dataclass(frozen=True)
class _Moments(Step):
    weight: float = 1.0

    def of_shard(self, rows: ShardRows) -> Partial:
        total = np.zeros((DIM, DIM))
        for _, block in rows.blocks(unit=False):
            total += self.weight * (block.T @ block)
        return {"xx": total, "rows": np.array(len(rows))}


@dataclass(frozen=True)
class _Labels(Step):
    columns: tuple[str, ...] = ("lang",)

    def of_shard(self, rows: ShardRows) -> Partial:
        return {"vectors": rows.take(np.arange(len(rows)), unit=True), "lang": np.array(rows.column("lang").to_pylist())}

    def combiner(self) -> Combiner:
        return Concatenation()


@dataclass(frozen=True)
class _Units(UnitStep):
    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        return {"sum": np.array(unit)}


@dataclass(frozen=True)
class _Refusing(Step):
    def of_shard(self, rows: ShardRows) -> Partial:
        raise UsageError("the request is at fault")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def output(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors") / "out"
    langs = pa.array(["de" if row % 3 else "fr" for row in range(ROWS)])
    publish_vectors(folder, vectors, keep={"lang": langs}, shards=7, partition_by=["lang"], part_bytes=8192)
    return folder


def _order(output: Path) -> list[int]:
    """Row numbers of the input in the order of the snapshot: shards, then partitions, then parts."""
    with passes_over(output, ["lang"]) as passes:
        ids: list[int] = []
        for receipt in passes.source.receipts.values():
            for file in receipt.files:
                ids += _ids(passes.source.store, file.path)
    return ids


def _ids(store: object, path: str) -> Sequence[int]:
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(store.read(path)), columns=["id"])  # type: ignore[attr-defined]
    return [int(cell) for cell in table.column("id").to_pylist()]


def test_sums_and_columns_are_those_of_numpy(output: Path, vectors: np.ndarray) -> None:
    with passes_over(output, ["lang"]) as passes:
        total = passes.run(_Moments())
        gathered = passes.run(_Labels())
    assert total["rows"] == ROWS
    np.testing.assert_allclose(total["xx"], vectors.astype(np.float64).T @ vectors, rtol=1e-5, atol=1e-3)
    order = _order(output)
    expected = vectors[order] / np.linalg.norm(vectors[order], axis=1, keepdims=True)
    np.testing.assert_allclose(gathered["vectors"], expected, rtol=1e-6)
    assert gathered["lang"].tolist() == ["de" if row % 3 else "fr" for row in order]


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_same_bits_whatever_the_threads_and_the_cache(output: Path, cache_bytes: int) -> None:
    totals = []
    for threads in (1, 2, 3):
        with passes_over(output, ["lang"], threads=threads, cache_bytes=cache_bytes) as passes:
            passes.run(_Moments())
            totals.append(passes.run(_Moments(2.0))["xx"].tobytes())  # from the cache, or from its files
    assert len(set(totals)) == 1


def test_the_journal_answers_for_steps_that_are_equal(output: Path) -> None:
    journal = MemoryJournal()

    def program(weight: float) -> tuple[float, list[str]]:
        with passes_over(output, ["lang"], journal=journal) as passes:
            first = passes.run(_Moments())
            made = passes.once("trace", lambda: {"trace": np.trace(first["xx"])})
            last = passes.run(_Moments(weight))
            return float(made["trace"] + last["xx"].sum()), [name for name, _ in passes.done]

    begun, ran = program(3.0)
    assert ran == ["_Moments", "trace", "_Moments"]
    assert program(3.0) == (begun, [])
    assert program(4.0)[1] == ["_Moments"], "another step is computed again"


def test_units_and_refusals(output: Path) -> None:
    with passes_over(output, ["lang"], threads=2) as passes:
        assert passes.units(_Units(), 5)["sum"] == 10
        with pytest.raises(UsageError, match="the request is at fault"):
            passes.run(_Refusing())


@pytest.mark.parametrize("vector", list(VectorType))
def test_every_stored_type(vector: VectorType, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).uniform(-1, 1, (100, 16)).astype(np.float32)
    publish_vectors(tmp_path / "out", vectors, vector=vector, shards=2)
    with passes_over(tmp_path / "out") as passes:
        seen = passes.run(_Vectors())["vectors"]
    closest = {VectorType.FLOAT32: 0.0, VectorType.FLOAT16: 1e-3, VectorType.INT8: 0.006, VectorType.BINARY: None}[vector]
    if closest is None:
        assert (seen == np.where(vectors > 0, 1, -1)).all()
    else:
        assert np.abs(seen - vectors).max() <= closest


@dataclass(frozen=True)
class _Vectors(Step):
    def of_shard(self, rows: ShardRows) -> Partial:
        return {"vectors": rows.take(np.arange(len(rows)), unit=False)}

    def combiner(self) -> Combiner:
        return Concatenation()

"""The job `dedup` over real snapshots in this process, against brute force in NumPy on all pairs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse.csgraph import connected_components

from jobs.config import parse_section
from jobs.dedup import layout, merging
from jobs.dedup.config import DedupConfig
from jobs.dedup.job import DedupJob
from jobs.passes.kind import Outcome
from tests.vector_snapshots import MemoryJournal, passes_over, publish_vectors
from workers.config import VectorType
from workers.errors import UsageError
from workers.storage.store import Store
from workers.vectors.duplicates import route

ROWS, DIM = 1200, 24
LIMITS = ((merging, "DIRECT"), (merging, "MERGE_BYTES"), (layout, "PIECE_BYTES"))


def _config(output: Path, **settings: Any) -> DedupConfig:
    raw = {"dedup": {"snapshot": str(output), **settings}, "output": {"uri": f"{output}.dedup"}}
    return DedupConfig.model_validate(raw)


def _run(output: Path, threads: int = 1, journal: MemoryJournal | None = None, **settings: Any) -> tuple[Outcome, pa.Table]:
    """What the program returns, and the rows that its last pass writes, in order of the snapshot."""
    job = DedupJob(_config(output, **settings))
    work = f"{output}.work-{threads}-{sorted(settings.items())}"
    with passes_over(output, ("id", "text_hash", "num_tokens"), threads=threads, journal=journal, work=work) as passes:
        job.check(passes.source)
        outcome = job.program(passes, None)
        files: list[Path] = []
        passes._executor.write(  # type: ignore[attr-defined]
            outcome.step,
            passes.source.shards,
            lambda receipt: files.extend(Path(work) / file.path for file in receipt.files),
        )
    return outcome, pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])


def _near(vectors: np.ndarray, texts: Sequence[str], threshold: float) -> np.ndarray:
    """[N, N] the pairs by brute force, in float64."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    same = np.array(texts)[:, None] == np.array(texts)[None, :]
    near: np.ndarray = (cosines >= threshold) | same
    np.fill_diagonal(near, False)
    return near


def _as_compared(vectors: np.ndarray) -> np.ndarray:
    """A copy stands for the first row of its text, whatever its vector."""
    return np.concatenate([vectors[:-1], vectors[:1]])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[str]]:
    """Groups of rows of several sizes; 40 texts occur twice or three times, one of them with quite another vector."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((500, DIM))
    vectors = centres[random.integers(0, 500, ROWS)] + 0.25 * random.standard_normal((ROWS, DIM))
    texts = [f"text {row}" for row in range(ROWS)]
    for row in range(40):
        texts[ROWS - 1 - row] = texts[row] = f"copy {row % 30}"
        vectors[ROWS - 1 - row] = vectors[row] = vectors[row % 30]
    vectors[ROWS - 1] = -vectors[0]
    folder = tmp_path_factory.mktemp("dedup") / "out"
    tokens = vectors.astype(np.float32)
    publish_vectors(folder, tokens, texts=texts, shards=5)
    return folder, tokens, texts


DIRECTLY, ONE_FILE, SEVERAL = (1 << 60, 1 << 60, 1 << 60), (0, 1 << 60, 1 << 60), (0, 20_000, 10_000)


@pytest.mark.parametrize("limits", [DIRECTLY, ONE_FILE, SEVERAL])
def test_groups_pairs_and_neighbours_are_those_of_brute_force(
    corpus: tuple[Path, np.ndarray, list[str]], limits: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its records travel. `limits`: ranges read without a merge, bytes of a merged file and of a piece of cells."""
    for (module, name), limit in zip(LIMITS, limits, strict=True):
        monkeypatch.setattr(module, name, limit)
    output, vectors, texts = corpus
    outcome, table = _run(output, clusters=12, probe=12)  # every row in every cell: nothing may be missed
    near = _near(_as_compared(vectors), texts, 0.95)
    count, label = connected_components(near, directed=False)
    sizes = np.bincount(label)
    assert table.column_names[:7] == ["id", "group", "keep", "similarity", "neighbour", "neighbour_similarity", "outlier"]
    assert table.column("id").to_pylist() == [str(row) for row in range(ROWS)]

    groups = table.column("group").to_pylist()
    numbers: dict[int, int] = {}
    expected = [numbers.setdefault(of, len(numbers)) if sizes[of] > 1 else None for of in label.tolist()]
    assert groups == expected, "numbered in order of their first rows"
    kept = np.array(table.column("keep").to_pylist())
    first = [row == label.tolist().index(label[row]) for row in range(ROWS)]
    assert kept.tolist() == first

    facts = outcome.facts
    assert facts["pairs"] == np.triu(near).sum()
    assert (facts["groups"], facts["kept"], facts["duplicates"]) == ((sizes > 1).sum(), count, ROWS - count)
    assert facts["largest_group"] == sizes.max()
    assert facts["copies"] == ROWS - len(set(texts))
    assert facts["rows"] == facts["kept"] + facts["duplicates"] == ROWS

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    leaders = np.array([label.tolist().index(of) for of in label])
    grouped = sizes[label] > 1
    similarity = np.array(table.column("similarity").to_numpy())
    np.testing.assert_allclose(similarity[grouped], cosines[np.arange(ROWS), leaders][grouped], atol=2e-6)
    assert np.isnan(similarity[~grouped]).all()
    assert facts["below_threshold"] == (similarity < 0.95).sum()

    unit = _as_compared(unit)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    copies = np.array(texts)[:, None] == np.array(texts)[None, :]
    np.fill_diagonal(copies, False)
    best = np.where(copies.any(axis=1), 1.0, cosines.max(axis=1))
    np.testing.assert_allclose(table.column("neighbour_similarity").to_numpy(), best, atol=2e-6)
    neighbour = np.array([int(cell) for cell in table.column("neighbour").to_pylist()])
    met = np.where(copies[np.arange(ROWS), neighbour], 1.0, cosines[np.arange(ROWS), neighbour])
    np.testing.assert_allclose(met, best, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("direct", "least", "most"), [(0, 1.8, 2.2), (1 << 60, 2.6, 4.0)])
def test_requests_grow_with_the_shards_where_files_are_merged(
    direct: int, least: float, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with their square, as they do where every shard reads a range of every other's file."""
    monkeypatch.setattr(merging, "DIRECT", direct)
    vectors = np.random.default_rng(2).standard_normal((320, DIM)).astype(np.float32)
    counts = []
    for shards in (20, 40):
        publish_vectors(tmp_path / f"{shards}", vectors, shards=shards)
        asked = 0

        def counted(original: Any) -> Any:
            def call(*arguments: Any) -> Any:
                nonlocal asked
                asked += 1
                return original(*arguments)

            return call

        with monkeypatch.context() as patched:
            for name in ("read", "read_range", "put"):
                patched.setattr(Store, name, counted(getattr(Store, name)))
            _run(tmp_path / f"{shards}")
        counts.append(asked)
    assert least < counts[1] / counts[0] < most


@pytest.mark.slow
def test_same_bits_whatever_the_threads(corpus: tuple[Path, np.ndarray, list[str]]) -> None:
    made = [_run(corpus[0], threads=threads) for threads in (1, 2, 3)]
    for other in made[1:]:
        assert made[0][1].equals(other[1])
        assert made[0][0].facts == other[0].facts


def test_two_probes_find_nearly_all_pairs_and_no_others(corpus: tuple[Path, np.ndarray, list[str]]) -> None:
    output, vectors, texts = corpus
    everything = int(np.triu(_near(_as_compared(vectors), texts, 0.95)).sum())
    found = [_run(output, probe=probe)[0].facts["pairs"] for probe in (1, 2)]
    assert 0.9 * everything < found[0] < found[1] <= everything
    assert found[1] >= 0.99 * everything


@pytest.mark.parametrize("keep", ["longest", "central"])
def test_the_row_that_is_kept(corpus: tuple[Path, np.ndarray, list[str]], keep: str) -> None:
    vectors = corpus[1]
    _, table = _run(corpus[0], keep=keep)
    groups, kept = np.array(table.column("group").to_pylist(), float), np.array(table.column("keep").to_pylist())
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for group in np.unique(groups[~np.isnan(groups)]):
        members = np.flatnonzero(groups == group)
        cosines = unit[members] @ unit[members].T
        mean = (cosines.sum(axis=1) - np.diag(cosines)) / (len(members) - 1)
        best = members[np.argmax(np.round(mean, 9))] if keep == "central" else members[0]  # every row has one token
        assert members[kept[members]].tolist() == [best]


@pytest.mark.slow
def test_an_interrupted_job_goes_on_where_it_was(corpus: tuple[Path, np.ndarray, list[str]]) -> None:
    journal = MemoryJournal()
    whole, table = _run(corpus[0], journal=journal, probe=3)
    for place in (3, 6, 9):
        short = MemoryJournal()
        short.kept = {at: kept for at, kept in journal.kept.items() if at < place}
        again, rows = _run(corpus[0], journal=short, probe=3)
        assert again.facts == whole.facts
        assert rows.equals(table)


@pytest.mark.parametrize("vector", [VectorType.FLOAT16, VectorType.INT8, VectorType.BINARY])
def test_stored_types(corpus: tuple[Path, np.ndarray, list[str]], vector: VectorType, tmp_path: Path) -> None:
    vectors = corpus[1][:300] / 4
    publish_vectors(tmp_path / "out", vectors, shards=2, vector=vector)
    outcome, _ = _run(tmp_path / "out", clusters=4, probe=4)
    seen = np.where(vectors > 0, 1.0, -1.0) if vector == VectorType.BINARY else vectors
    expected = int(np.triu(_near(seen, list(map(str, range(300))), 0.95)).sum())
    assert abs(outcome.facts["pairs"] - expected) <= (0 if vector == VectorType.BINARY else 2)


def test_outliers_are_the_rows_farthest_from_their_neighbour(corpus: tuple[Path, np.ndarray, list[str]]) -> None:
    _, table = _run(corpus[0], outliers=0.05)
    cosine, marked = table.column("neighbour_similarity").to_numpy(), np.array(table.column("outlier").to_pylist())
    assert 0.04 * ROWS <= marked.sum() <= 0.05 * ROWS
    assert cosine[marked].max() <= cosine[~marked].min() + 4e-5
    assert not any(_run(corpus[0], outliers=0.0)[1].column("outlier").to_pylist())


@pytest.mark.slow
def test_a_partitioned_snapshot(corpus: tuple[Path, np.ndarray, list[str]], tmp_path: Path) -> None:
    """Parts of several partitions in a shard: the same groups, numbered in the snapshot's own order of rows."""
    _, vectors, texts = corpus
    langs = pa.array(["de" if row % 3 else "fr" for row in range(ROWS)])
    publish_vectors(
        tmp_path / "out", vectors, texts=texts, keep={"lang": langs}, shards=4, partition_by=["lang"], part_bytes=8192
    )
    whole, table = _run(corpus[0], clusters=12, probe=12)
    parts, again = _run(tmp_path / "out", clusters=12, probe=12)
    assert parts.facts == whole.facts
    groups = [{frozenset(ids) for ids in _by_group(made).values()} for made in (table, again)]
    assert groups[0] == groups[1]
    first = [number for number in again.column("group").to_pylist() if number is not None]
    assert list(dict.fromkeys(first)) == list(range(whole.facts["groups"]))


def _by_group(table: pa.Table) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for id_, group in zip(table.column("id").to_pylist(), table.column("group").to_pylist(), strict=True):
        if group is not None:
            found.setdefault(group, []).append(id_)
    return found


def test_a_single_row(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "out", np.ones((1, 8), np.float32), shards=1)
    outcome, table = _run(tmp_path / "out")
    assert (outcome.facts["alone"], outcome.facts["kept"]) == (1, 1)
    assert (table.column("keep").to_pylist(), table.column("neighbour").to_pylist()) == ([True], [None])


def test_more_cells_than_rows_are_refused(corpus: tuple[Path, np.ndarray, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"dedup\.clusters=5000: the snapshot has 1200 rows; give fewer, or auto"):
        _run(corpus[0], clusters=5000)


def test_a_column_of_the_same_name_is_refused(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "out", np.ones((4, 8), np.float32), keep={"group": pa.array(["a"] * 4)}, shards=1)
    with pytest.raises(UsageError, match=r"its column group has the name of one that dedup adds"):
        _run(tmp_path / "out")


@pytest.mark.slow
def test_a_crowded_cell_in_bounded_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A third of the rows in one cell, which is more than a unit holds: compared block by block, with the same result."""
    random = np.random.default_rng(5)
    crowd = np.ones(DIM) * 3 + 0.6 * random.standard_normal((400, DIM))
    vectors = np.concatenate([random.standard_normal((800, DIM)), crowd]).astype(np.float32)[random.permutation(1200)]
    publish_vectors(tmp_path / "out", vectors, shards=5)
    whole, table = _run(tmp_path / "out", clusters=4)
    assert whole.facts["largest_cell"] > 400
    monkeypatch.setattr("jobs.dedup.job.UNIT_BYTES", 4 * DIM * 150)
    monkeypatch.setattr("workers.vectors.duplicates.find_pairs.COLUMN_ROWS", 64)
    monkeypatch.setattr("workers.vectors.duplicates.cell_search.PRODUCT", 64 * 16)
    monkeypatch.setattr("workers.vectors.duplicates.cell_search.FEW", 8)
    monkeypatch.setattr("workers.vectors.duplicates.groups.BLOCK_ROWS", 32)
    monkeypatch.setattr("jobs.dedup.layout.PIECE_BYTES", 20_000)
    parts, again = _run(tmp_path / "out", clusters=4, threads=2)
    assert parts.facts == whole.facts
    for name in ("id", "group", "keep", "neighbour"):
        assert again.column(name).equals(table.column(name)), name
    np.testing.assert_allclose(again.column("similarity").to_numpy(), table.column("similarity").to_numpy(), atol=1e-6)


def test_units_hold_a_bounded_number_of_rows() -> None:
    counts = np.array([3, 4, 0, 20, 1, 2, 0, 5])
    units = route.plan_units(counts, 4, 8)
    assert units.tolist() == [[0, 3, 0, 0], [3, 4, 0, 8], [3, 4, 8, 16], [3, 4, 16, 20], [4, 8, 0, 0]]


@pytest.mark.parametrize(
    "settings", [{"threshold": 2.0}, {"probe": 0}, {"keep": "best"}, {"clusters": 0}, {"outliers": 0.9}]
)
def test_settings_out_of_range_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"dedup.{next(iter(settings))}"):
        parse_section({"dedup": {"snapshot": "x", **settings}, "output": {"uri": "y"}}, "test", DedupConfig)


@pytest.mark.slow
def test_memory_is_bounded_where_a_third_of_the_rows_are_equal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """9,000 of 27,000 rows have the same vector and other texts, as texts have that a model cuts at the same place."""
    random, rows, crowd = np.random.default_rng(6), 27_000, 9_000
    vectors = random.standard_normal((rows, DIM)).astype(np.float32)
    vectors[random.permutation(rows)[:crowd]] = 1.0
    publish_vectors(tmp_path / "out", vectors, shards=6)
    monkeypatch.setattr("jobs.dedup.job.UNIT_BYTES", 4 * DIM * 4000)
    tracemalloc.start()
    try:
        outcome, table = _run(tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome.facts["largest_cell"] >= crowd
    assert (outcome.facts["pairs"], outcome.facts["groups"]) == (crowd * (crowd - 1) // 2, 1)
    assert sum(table.column("keep").to_pylist()) == rows - crowd + 1
    assert peak < 110e6, "9,000 x 9,000 cosines take 324 MB"

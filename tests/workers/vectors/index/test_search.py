"""Searches by index files: the same hits as brute force, whatever is new, damaged or filtered out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.passes.source import SourceSnapshot
from tests.jobs.index.index_samples import CATALOG_PATH, COUNT, DIM, RUN, config, mixture, write_files
from tests.vector_snapshots import publish_vectors
from workers.config import VectorType
from workers.errors import UsageError
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.vectors.index.search import IndexedSearch, IndexFiles

LANGS = ["de" if row % 3 else "fr" for row in range(COUNT)]
YEARS = list(range(COUNT))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return mixture(COUNT)


@pytest.fixture(scope="module")
def output(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "out"
    keep = {"lang": pa.array(LANGS), "year": pa.array(YEARS, pa.int32())}
    publish_vectors(folder, vectors, keep=keep, shards=3, partition_by=["lang"], part_bytes=60_000)
    return folder


@pytest.fixture(scope="module")
def index(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("index")
    write_files(output, target, config(output, rows_per_file=700))
    return target


def searcher(output: Path, target: Path, store: Store | None = None) -> IndexedSearch:
    source = SourceSnapshot.open(str(output), {}, "snapshot")
    files = [file for receipt in source.receipts.values() for file in receipt.files]
    parts = {file.sha256: file.path for file in files}
    found = IndexFiles.read(store or Store(str(target), {}), f"data/{RUN}", CATALOG_PATH, parts)
    return IndexedSearch(source.store, source.schema, {file.path: file.rows for file in files}, found)


def ids(hits: list[dict[str, Any]]) -> list[int]:
    return [int(hit["id"]) for hit in hits]


def best(vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> list[int]:
    cosines = vectors.astype(np.float64) @ query
    chosen = np.arange(len(vectors)) if rows is None else rows
    return chosen[np.argsort(-cosines[chosen], kind="stable")[:k]].tolist()


def queries(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    near = mixture(COUNT)[:count] + 0.1 * rng.standard_normal((count, DIM))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_hits_are_those_of_brute_force_with_exact_scores(output: Path, index: Path, vectors: np.ndarray) -> None:
    search = searcher(output, index)
    right = 0
    for query in queries(30):
        hits = search.nearest(query[None], 10)
        right += len(set(ids(hits)) & set(best(vectors, query, 10)))
        for hit in hits:
            assert hit["score"] == pytest.approx(float(vectors[int(hit["id"])] @ query), abs=2e-6)
            assert (hit["lang"], hit["year"]) == (LANGS[int(hit["id"])], int(hit["id"]))
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert right >= 297, "recall@10 of 0.99"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("lang = 'fr'", lambda row: LANGS[row] == "fr"),
        ("year < 40 or year = 2999", lambda row: row < 40 or row == 2999),
        ("year >= 1500 and lang = 'de'", lambda row: row >= 1500 and LANGS[row] == "de"),
        ("year = 17", lambda row: row == 17),
        ("year < 0", lambda row: False),
        ("year in (1, 2, 3, 4, 5, 6, 7, 8, 9)", lambda row: 1 <= row <= 9),
    ],
)
def test_conditions(output: Path, index: Path, vectors: np.ndarray, text: str, chosen: Any) -> None:
    search = searcher(output, index)
    where = Where.parse(text, SourceSnapshot.open(str(output), {}, "snapshot").schema.rows)
    rows = np.array([row for row in range(COUNT) if chosen(row)], np.int64)
    right = wanted = 0
    for query in queries(5):
        hits = ids(search.nearest(query[None], 10, where))
        assert len(hits) == len(set(hits)) == min(10, len(rows)), "never fewer than there are"
        assert set(hits) <= set(rows.tolist())
        right += len(set(hits) & set(best(vectors, query, 10, rows)))
        wanted += len(hits)
    assert right >= 0.97 * wanted


def test_new_parts_are_searched_exactly(output: Path, index: Path, tmp_path: Path, vectors: np.ndarray) -> None:
    catalog = pq.read_table(index / CATALOG_PATH)
    known = catalog.slice(0, 1)["part_sha256"][0].as_py()
    source = SourceSnapshot.open(str(output), {}, "snapshot")
    files = [file for receipt in source.receipts.values() for file in receipt.files]
    parts = {file.sha256: file.path for file in files if file.sha256 != known}
    found = IndexFiles.read(Store(str(index), {}), f"data/{RUN}", CATALOG_PATH, parts)
    search = IndexedSearch(source.store, source.schema, {file.path: file.rows for file in files}, found)
    right = sum(len(set(ids(search.nearest(query[None], 10))) & set(best(vectors, query, 10))) for query in queries(10))
    assert right >= 99


@pytest.mark.parametrize("damage", ["altered", "shorter", "gone"])
def test_a_damaged_file_is_named_and_searched_exactly(
    damage: str, output: Path, index: Path, tmp_path: Path, vectors: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "copy"
    folder = target / "data" / RUN
    folder.mkdir(parents=True)
    (target / CATALOG_PATH).parent.mkdir(parents=True)
    (target / CATALOG_PATH).write_bytes((index / CATALOG_PATH).read_bytes())
    for file in (index / "data" / RUN).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = sorted(folder.glob("*.usearch"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.unlink()
    if damage != "gone":
        file.write_bytes(bytes(data) if damage == "altered" else bytes(data[:-1]))
    with caplog.at_level(logging.WARNING, logger="reembed"):
        search = searcher(output, target)
        right = sum(len(set(ids(search.nearest(query[None], 10))) & set(best(vectors, query, 10))) for query in queries(10))
    assert right >= 99
    assert file.name in caplog.text
    assert "searched exactly" in caplog.text


def test_a_remote_index_is_copied_once(output: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "local_path", lambda self, path: None)
    query = queries(1)
    first = ids(searcher(output, index).nearest(query, 10))
    copies = sorted((tmp_path / "cache" / "index").glob("*.usearch"))
    assert len(copies) == 6
    times = [copy.stat().st_ino for copy in copies]
    assert ids(searcher(output, index).nearest(query, 10)) == first
    assert [copy.stat().st_ino for copy in copies] == times


def test_no_index_there(output: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no catalog of index files; give the output of `reembed index`"):
        searcher(output, tmp_path)


def test_a_damaged_catalog_is_named(output: Path, tmp_path: Path) -> None:
    catalog = tmp_path / CATALOG_PATH
    catalog.parent.mkdir(parents=True)
    for damaged in (b"", b"PAR1 and no more", pa.BufferOutputStream().getvalue().to_pybytes()):
        catalog.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"files\.parquet: damaged .*; build the index again, or search without it"):
            searcher(output, tmp_path)
    pq.write_table(pa.table({"other": [1]}), catalog)
    with pytest.raises(UsageError, match="damaged"):
        searcher(output, tmp_path)


def test_more_hits_than_rows(tmp_path: Path) -> None:
    few = mixture(12)
    publish_vectors(tmp_path / "out", few, shards=2, vector=VectorType.FLOAT16)
    write_files(tmp_path / "out", tmp_path / "index", config(tmp_path / "out"))
    hits = searcher(tmp_path / "out", tmp_path / "index").nearest(few[:1], 50)
    assert sorted(ids(hits)) == list(range(12))


def test_tokens_are_found_by_late_interaction(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 9, 400)
    tokens = mixture(int(counts.sum()), 16)
    output, target = tmp_path / "out", tmp_path / "index"
    publish_vectors(output, tokens, counts=counts.tolist(), shards=3, keep={"year": pa.array(range(400), pa.int32())})
    outcome, files = write_files(output, target, config(output, rows_per_file=500, held_out=50))
    assert outcome.facts["recall_at_10"] > 0.97
    assert outcome.facts["vectors"] == counts.sum()
    assert sum(file.rows for file in files) == 400
    search, ends = searcher(output, target), np.cumsum(counts)
    where = Where.parse("year >= 200", SourceSnapshot.open(str(output), {}, "snapshot").schema.rows)
    right = 0
    for at in range(10):
        query = tokens[at * 40 : at * 40 + 3] + 0.1 * rng.standard_normal((3, 16)).astype(np.float32)
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        exact = np.array(
            [(tokens[end - count : end] @ query.T).max(axis=0).mean() for end, count in zip(ends, counts, strict=True)]
        )
        hits = search.nearest(query, 5)
        assert [hit["score"] for hit in hits] == pytest.approx(exact[ids(hits)], abs=1e-5)
        right += len(set(ids(hits)) & set(np.argsort(-exact)[:5]))
        later = ids(search.nearest(query, 5, where))
        assert len(later) == 5
        assert min(later) >= 200
    assert right >= 45, "candidates come from the tokens' nearest ones, so late interaction is approximate"

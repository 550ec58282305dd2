"""Search in two passes: candidates by a small column are those of plain Python, and scores those of exact search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.commands.search import Columns, find, search_snapshot
from jobs.publish.open_snapshot import open_published
from tests.local_replicas import local_run
from tests.vector_snapshots import publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.errors import UsageError
from workers.snapshot.rescoring import candidates
from workers.snapshot.where import Where

ROWS, DIM, CUT = 400, 72, 16  # 9 bytes of bits: no whole number of 8-byte words
BESIDE: list[dict[str, Any]] = [
    {"name": "bits", "type": "binary"},
    {"name": "words", "type": "binary", "dim": 64},
    {"name": "codes", "type": "int8"},
    {"name": "cut", "type": "float32", "dim": CUT},
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("rescoring") / "out"
    year = pa.array([2000 + row % 20 for row in range(ROWS)])
    publish_vectors(folder, unit_vectors(ROWS, DIM), keep={"year": year}, shards=3, beside=BESIDE)
    return str(folder)


def query(seed: int) -> np.ndarray:
    """Near one of the rows."""
    mixed = unit_vectors(ROWS, DIM)[seed] + unit_vectors(1, DIM, seed=1000 + seed)[0]
    return (mixed / np.linalg.norm(mixed)).astype(np.float32)[None]


def differing(one: np.ndarray, other: np.ndarray) -> int:
    return sum(bool(left > 0) != bool(right > 0) for left, right in zip(one.tolist(), other.tolist(), strict=True))


@pytest.mark.parametrize(("column", "dim"), [("bits", DIM), ("words", 64)])
def test_candidates_by_bits_are_those_with_the_fewest_differing_signs(output: str, column: str, dim: int) -> None:
    published = open_published(output)
    first, asked = published.schema.view(column), query(7)
    paths = sorted(file.path for file in published.files)
    hits = [hit for path in paths for hit in candidates(published.store, path, first, asked[:, :dim], 20)]
    assert len(hits) == 60
    vectors = unit_vectors(ROWS, DIM)
    expected = [1 - 2 * differing(row[:dim], asked[0, :dim]) / dim for row in vectors]
    by_part = np.array_split(np.array(expected), np.linspace(0, ROWS, 4).astype(int)[1:3])
    for path, scores in zip(paths, by_part, strict=True):
        mine = {hit.row: hit.score for hit in hits if hit.path == path}
        assert mine == {row: pytest.approx(scores[row]) for row in mine}
        assert sorted(mine.values()) == pytest.approx(np.sort(scores)[-20:])


@pytest.mark.parametrize("first", ["bits", "words", "codes", "cut"])
@pytest.mark.parametrize("where", [None, "year < 2004"])
def test_with_all_rows_as_candidates_it_is_exact_search(output: str, first: str, where: str | None) -> None:
    published, asked = open_published(output), query(3)
    condition = None if where is None else Where.parse(where, published.schema.plain)
    exact = find(published, None, asked, 10, condition)
    scores = unit_vectors(ROWS, DIM).astype(np.float64) @ asked[0]
    allowed = np.arange(ROWS) % 20 < (4 if where else 20)
    assert [hit["score"] for hit in exact] == pytest.approx(np.sort(scores[allowed])[::-1][:10], abs=1e-5)
    assert find(published, None, asked, 10, condition, Columns(first=first, oversample=ROWS)) == exact
    assert not {"embedding", "bits", "words", "codes", "cut"} & exact[0].keys()


def test_few_candidates_are_scored_as_exact_search_scores_them(output: str) -> None:
    published = open_published(output)
    asked, found = query(5), find(published, None, query(5), 5, None, Columns(first="bits", oversample=2))
    scores = unit_vectors(ROWS, DIM).astype(np.float64) @ asked[0]
    assert len(found) == 5
    assert [hit["score"] for hit in found] == pytest.approx([scores[int(hit["id"])] for hit in found], abs=1e-5)
    assert found[0]["id"] == str(scores.argmax())


def test_another_column_scores_by_its_own_components(output: str) -> None:
    published, asked = open_published(output), query(9)
    hits = find(published, None, asked, 10, None, Columns("cut"))
    heads = [vectors[:, :CUT].astype(np.float64) for vectors in (unit_vectors(ROWS, DIM), asked)]
    rows, mine = (head / np.linalg.norm(head, axis=1, keepdims=True) for head in heads)
    scores = (rows @ mine.T)[:, 0]
    assert [hit["score"] for hit in hits] == pytest.approx(np.sort(scores)[::-1][:10], abs=1e-5)


def test_fewer_rows_than_candidates_and_no_rows(tmp_path: Path) -> None:
    publish_vectors(tmp_path / "out", unit_vectors(3, 16), shards=1, beside=[{"name": "bits", "type": "binary"}])
    published = open_published(str(tmp_path / "out"))
    asked = unit_vectors(1, 16)
    assert len(find(published, None, asked, 10, None, Columns(first="bits"))) == 3
    nothing = Where.parse("num_tokens > 99", published.schema.plain)
    assert find(published, None, asked, 10, nothing, Columns(first="bits")) == []


def test_what_it_refuses(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = "the snapshot's columns of vectors are embedding, bits, words, codes, cut"
    for columns, words in (
        (Columns("nothing"), f"--column nothing: {there}"),
        (Columns(first="year"), f"--first year: {there}"),
        (Columns(first="embedding"), "--first embedding: is the column that scores"),
        (Columns(oversample=4), "--oversample 4: counts candidates of --first, which is not given"),
    ):
        with pytest.raises(UsageError, match=words):
            search_snapshot(output, "x", 3, columns=columns)
    with pytest.raises(UsageError, match="--first and --index: both find candidates; give one of them"):
        search_snapshot(output, "x", 3, index=str(tmp_path), columns=Columns(first="bits"))
    with pytest.raises(UsageError, match="the snapshot has no column bits; it has id, num_tokens"):
        search_snapshot(output, "x", 3, where="bits is null")
    monkeypatch.setattr("jobs.commands.search.load_embedder", lambda *_, **__: _Embedder())
    ended = local_run("search", output, "3", "--first", "bits", "--oversample", "4", "-k", "2", "--json")
    assert ended.rc == 0, ended.log
    assert {name: ended.summary[name] for name in ("first", "oversample")} == {"first": "bits", "oversample": 4}
    assert [hit["id"] for hit in ended.summary["hits"]][:1] == ["3"]
    assert local_run("search", output, "3", "--oversample", "0").rc == 2


class _Embedder:
    def embed(self, texts: list[str]) -> list[np.ndarray]:
        return [unit_vectors(ROWS, DIM)[int(text)][None] for text in texts]

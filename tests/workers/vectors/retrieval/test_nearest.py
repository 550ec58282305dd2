"""Exact search for many queries against brute force in float64: copies, chunks, ties, threads, blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vector_snapshots import passes_over, publish_vectors
from workers.records.documents import text_hash
from workers.vectors.retrieval.nearest import MARGIN, NearestTexts, pairs_to_score
from workers.vectors.retrieval.texts import halves, joined

ROWS, DIM, QUERIES, DEPTH = 9000, 16, 600, 20


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, list[str], np.ndarray]:
    """Rows of which every third is a copy of an earlier one: the same text, and the same vector."""
    draw = np.random.default_rng(7)
    vectors = draw.standard_normal((ROWS, DIM)).astype(np.float32)
    source = np.where(np.arange(ROWS) % 3 == 0, draw.integers(0, ROWS, ROWS), np.arange(ROWS))
    return vectors[source], [f"text {row}" for row in source], draw.standard_normal((QUERIES, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def output(data: tuple[np.ndarray, list[str], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nearest") / "out"
    publish_vectors(folder, data[0], texts=data[1], shards=2, part_bytes=100_000)
    return folder


def _search(output: Path, queries: np.ndarray, threads: int) -> tuple[list[list[str]], np.ndarray]:
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    with passes_over(output, ["id", "text_hash"], threads=threads) as passes:
        step = pairs_to_score(queries, passes.run(NearestTexts(unit, DEPTH + MARGIN)))
        texts, scores, ids = step.chosen(passes.run(step), DEPTH)
    return [[str(ids[text]) for text in row] for row in texts], scores


@pytest.mark.slow
def test_equal_to_brute_force_and_the_same_whatever_the_threads(
    output: Path, data: tuple[np.ndarray, list[str], np.ndarray]
) -> None:
    vectors, texts, queries = data
    found, scores = _search(output, queries, 1)

    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    wide_queries = queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    cosine = (wide_queries @ wide.T).astype(np.float32)
    ids = np.array([str(row) for row in range(ROWS)])
    for query in range(0, QUERIES, 25):
        best: dict[str, tuple[float, str]] = {}
        for row, text in enumerate(texts):
            score, id_ = best.get(text, (-2.0, ids[row]))
            best[text] = (max(score, float(cosine[query, row])), min(id_, ids[row]))
        expected = sorted(best.values(), key=lambda hit: hit[0], reverse=True)[:DEPTH]
        np.testing.assert_allclose(scores[query], [score for score, _ in expected], atol=2e-7)
        assert found[query] == [id_ for _, id_ in expected]
    for threads in (2, 3):
        again = _search(output, queries, threads)
        assert again[0] == found
        assert again[1].tobytes() == scores.tobytes()


def test_equal_scores_are_ordered_by_id_descending_as_trec_eval_does(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(4, 8, dtype=np.float32), 5, axis=0)
    publish_vectors(tmp_path / "out", vectors, shards=3)
    found, scores = _search(tmp_path / "out", np.eye(1, 8, dtype=np.float32), 1)
    assert found[0][:5] == ["4", "3", "2", "1", "0"]
    assert found[0][5:] == sorted((str(row) for row in range(5, 20)), reverse=True)
    assert scores[0].tolist() == [1.0] * 5 + [0.0] * 15


def test_keys_as_bytes_and_as_numbers_have_one_order() -> None:
    raw = [text_hash(f"{number}") for number in range(50)] + [bytes(16), b"\1" + bytes(15), bytes(15) + b"\1"]
    keys = np.frombuffer(b"".join(raw), "S16")
    high, low = halves(keys)
    assert (joined(high, low) == keys).all()
    assert np.lexsort((low, high)).tolist() == sorted(range(len(raw)), key=raw.__getitem__)

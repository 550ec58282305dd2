"""What is said of rows that are chunks or tokens; texts read from a file of the corpus, joined by hash."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.workers.corpus_files import slice_of
from workers.config import CorpusConfig
from workers.records.documents import ReadPlan, text_hash
from workers.records.shard import Shard
from workers.vectors.clustering.centroids import Centroids
from workers.vectors.clustering.description import EXAMPLE, WORD, Describe, Described, Wanted
from workers.vectors.clustering.texts import NO_EXAMPLE, ReadTexts, SampledRows
from workers.vectors.shard_rows import PartSpan, ShardRows

DIM = 4
CENTROIDS = Centroids.flat("l2", np.eye(2, DIM, dtype=np.float32))


def _wanted(examples: int = 2, words: int = 10) -> Wanted:
    return Wanted(2, "l2", examples, words, np.array([3]))


def _rows(vectors: np.ndarray, columns: pa.Table, counts: np.ndarray | None = None, number: int = 3) -> ShardRows:
    span = PartSpan("part", 0, len(vectors), "", counts)
    return ShardRows(number, 0, [span], [vectors], lambda cells: cells.astype(np.float32), columns)


def _columns(ids: list[str], texts: list[str], **more: pa.Array) -> pa.Table:
    return pa.table({"id": ids, "text_hash": pa.array([text_hash(text) for text in texts], pa.binary(16)), **more})


def test_every_token_is_a_row_and_names_its_document() -> None:
    vectors = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.9, 0, 0], [0.5, 0, 0, 0], [0, 1.5, 0, 0]], np.float32)
    found = Describe(CENTROIDS, _wanted(), 0.0).of_shard(
        _rows(vectors, _columns(["a", "b", "c"], ["x", "y", "z"]), np.array([2, 0, 3]))
    )
    assert found["rows"].tolist() == [2, 3]
    np.testing.assert_allclose(found["distance"], [0.5, 0.6], atol=1e-6)
    np.testing.assert_allclose(found["inertia"], 0.25 + 0.01 + 0.25, atol=1e-6)
    assert found[EXAMPLE + "place"].tolist() == [0, 0, 1, 1]
    assert found[EXAMPLE + "id"].tolist() == ["a", "c", "a", "c"]


def test_chunks_say_where_they_lie_and_shards_whose_texts_are_not_read_have_no_sample() -> None:
    chunks = {name: pa.array(cells) for name, cells in (("chunk", [0, 1]), ("chunk_start", [0, 6]), ("chunk_end", [5, 11]))}
    columns = _columns(["a", "a"], ["first other"] * 2, **chunks)
    vectors = np.eye(2, DIM, dtype=np.float32)
    found = Describe(CENTROIDS, _wanted(), 0.0).of_shard(_rows(vectors, columns))
    assert found[WORD + "start"].tolist() == [0, 6]
    assert found[WORD + "end"].tolist() == [5, 11]
    other = Describe(CENTROIDS, _wanted(), 0.0).of_shard(_rows(vectors, columns, number=4))
    assert len(other[WORD + "place"]) == 0
    both = Described(_wanted(examples=1))
    both.add(found)
    both.add(other)
    assert both.result()["rows"].tolist() == [2, 2]
    assert len(both.result()[EXAMPLE + "place"]) == 2


def test_texts_are_those_of_the_hash_and_of_the_chunk(tmp_path: Path) -> None:
    texts = ["alpha beta gamma", "delta epsilon", "alpha beta gamma", "never sampled"]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts)))
    plan = ReadPlan(CorpusConfig(uri=[str(corpus)], id="id"), pa.string(), pa.schema([]))
    shard = Shard(0, (slice_of(corpus),), 100)
    hashes = [int.from_bytes(text_hash(text)[:8], "little") for text in (texts[0], texts[0], texts[1], "gone")]
    rows = SampledRows(
        np.array(hashes, np.uint64),
        np.array([0, 1, 1, 0], np.int32),
        np.array([-1, 6, -1, -1]),
        np.array([-1, 10, -1, -1]),
        np.array([NO_EXAMPLE, NO_EXAMPLE, 5, NO_EXAMPLE]),
        np.array([0, 4]),
    )
    step = ReadTexts(plan, (shard,), ((),), rows, 2)
    found = step.of_unit(0, None)  # type: ignore[arg-type]
    words = found["words"].tolist()
    counted = {
        (words[word], place): count for word, place, count in zip(found["word"], found["place"], found["count"], strict=True)
    }
    assert counted == {("alpha", 0): 1, ("beta", 0): 1, ("gamma", 0): 1, ("beta", 1): 1}
    assert found["texts"].tolist() == [1, 1]
    assert found["missing"] == 1
    assert dict(zip(found["example"].tolist(), found["beginning"].tolist(), strict=True)) == {5: "delta epsilon"}
    twice = step.combiner()
    twice.add(found)
    twice.add(found)
    total = twice.result()
    assert sorted(total["count"].tolist()) == [2, 2, 2, 2]
    assert total["words"].tolist() == words

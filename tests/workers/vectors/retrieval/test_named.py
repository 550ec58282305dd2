"""Rows by their ids and sampled rows: ids of other types, copies, several passes, and samples that depend on ids alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.vector_snapshots import passes_over, publish_vectors
from workers.records.documents import text_hash
from workers.vectors.retrieval.named import SampledRows, TextsOfIds, VectorsOfIds, found_ids

ROWS = 120
COLUMNS = ["id", "text_hash", "title"]


def _published(folder: Path, shards: int) -> np.ndarray:
    vectors = np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32)
    titles = pa.array([None if row % 5 == 0 else " " if row % 7 == 0 else f"title {row}" for row in range(ROWS)])
    publish_vectors(
        folder, vectors, texts=[f"text {row // 2}" for row in range(ROWS)], keep={"title": titles}, shards=shards
    )
    return vectors


@pytest.mark.parametrize("most", [1 << 20, 40])
def test_ids_that_are_there(tmp_path: Path, most: int) -> None:
    vectors = _published(tmp_path / "out", 3)
    ids = np.array(["7", "absent", "119", "0", "none"])
    with passes_over(tmp_path / "out", COLUMNS) as passes:
        texts = found_ids(ids, TextsOfIds, passes.run, most)
        found = found_ids(ids, VectorsOfIds, passes.run, most)
        assert found_ids(np.array(["x", "y"]), VectorsOfIds, passes.run, most) == {}
    assert dict(zip(texts["place"].tolist(), texts["key"].tolist(), strict=True)) == {
        at: text_hash(f"text {int(ids[at]) // 2}").rstrip(b"\0") for at in (0, 2, 3)
    }
    for place, vector in zip(found["place"], found["vectors"], strict=True):
        assert (vector == vectors[int(ids[place])]).all()
    assert sorted(found["place"]) == [0, 2, 3]


def test_a_sample_is_the_same_in_any_number_of_shards(tmp_path: Path) -> None:
    samples = []
    for shards in (1, 4):
        _published(tmp_path / str(shards), shards)
        with passes_over(tmp_path / str(shards), COLUMNS, threads=shards) as passes:
            samples.append(passes.run(SampledRows("title", 30)))
    wanted = [str(row) for row in range(ROWS) if row % 5 and row % 7]
    wanted.sort(key=text_hash)
    for sample in samples:
        assert sample["id"].tolist() == wanted[:30]
        assert sample["text"].tolist() == [f"title {id_}" for id_ in wanted[:30]]

"""Replicas that a cut leaves idle: the object is named, and what to do holds when it is done."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import discover
from jobs.planning.parallelism import WORTH_CUTTING, IdleReplicas, idle_replicas
from jobs.planning.sharding import cut
from workers.config import CorpusConfig

MIB = 1 << 20
TEXTS = [f"text {number} " + "x" * 90 for number in range(40_000)]  # 4 MB


def idle(root: Path, replicas: int = 8, shard_bytes: int = 64 * MIB, **settings: Any) -> IdleReplicas | None:
    config = CorpusConfig.model_validate({"uri": str(root)} | settings)
    return idle_replicas(cut(discover(config), shard_bytes, id_given=False), replicas, config)


def test_one_row_group_for_eight_replicas(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=len(TEXTS), use_dictionary=False)
    found = idle(tmp_path)
    assert found is not None
    assert found.busy == 1
    assert f"{path}: row group 0 has 40,000 rows, and a row group is not split (100% of the text" in found.cause
    assert found.mend == "write it again with smaller ones, e.g. of 1,250 rows, or set cluster.replicas=1"
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=1250, use_dictionary=False)
    assert idle(tmp_path, shard_bytes=MIB // 8) is None


def test_one_large_row_group_among_small_objects(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS[:30_000]}), tmp_path / "large.parquet", use_dictionary=False)
    for number in range(10):
        texts = TEXTS[30_000 + 1000 * number : 31_000 + 1000 * number]
        pq.write_table(pa.table({"text": texts}), tmp_path / f"small-{number}.parquet", use_dictionary=False)
    found = idle(tmp_path, shard_bytes=100_000)
    assert found is not None
    assert found.busy == 2
    assert "large.parquet: row group 0 has 30,000 rows" in found.cause
    assert "(75% of the text to embed)" in found.cause
    assert idle(tmp_path, replicas=2, shard_bytes=100_000) is None


@pytest.mark.parametrize(
    ("name", "cause", "mend"),
    [
        ("a.jsonl.gz", "is compressed as a whole (gzip), and so is not split", "unpack it, or write several objects"),
        ("a.json", "a JSON object is not split", "write several objects"),
    ],
)
def test_objects_that_are_read_as_a_whole(tmp_path: Path, name: str, cause: str, mend: str) -> None:
    rows = [{"text": text} for text in TEXTS]
    data = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_bytes(gzip.compress(data.encode(), 1) if name.endswith(".gz") else data.encode())
    found = idle(tmp_path)
    assert found is not None
    assert (found.busy, found.mend) == (1, f"{mend}, or set cluster.replicas=1")
    assert f"{tmp_path}/{name}: {cause}" in found.cause


def test_a_corpus_in_few_shards(tmp_path: Path) -> None:
    """The advice holds."""
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    found = idle(tmp_path, replicas=16)
    assert found is not None
    assert "are cut into 5 shards" in found.cause
    advised = int(found.mend.partition("run.shard_bytes=")[2].split()[0])
    assert idle(tmp_path, replicas=16, shard_bytes=advised) is None
    assert idle(tmp_path, replicas=found.busy) is None


def test_a_small_corpus_is_no_warning_where_it_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a line\n" * 100)
    config = CorpusConfig.model_validate({"uri": str(tmp_path)})
    shards = cut(discover(config), MIB, id_given=False)
    assert idle_replicas(shards, 2, config, least_bytes=WORTH_CUTTING) is None
    assert idle_replicas(shards, 2, config) is not None
    assert idle_replicas([], 2, config) is None

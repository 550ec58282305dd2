"""Today's code over what commit 8645ff9 wrote: resume, verify, list, roll back, reuse, and nothing to do.

The rows are compared with the fixture's source files and the vectors with transformers, not with this program.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from tests.compat.conftest import FIXTURE, NIGHTS, Copied, Copy
from tests.documented import apply_changes
from tests.drivers import Ended, committed
from tests.local_replicas import local_embed, local_run
from tests.readers.samples import encodings

Vectors = npt.NDArray[np.float32]

pytestmark = [pytest.mark.slow]


def source_rows(night: int) -> dict[str, dict[str, Any]]:
    """Rows of the source by id, read without this program; the line that is no JSON is left out."""
    rows: list[dict[str, Any]] = []
    for path in sorted(NIGHTS[night - 1].iterdir()):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {row["id"]: row for row in rows}


@functools.cache
def model_of_the_fixture() -> tuple[Any, Any]:
    return (
        transformers.AutoTokenizer.from_pretrained(FIXTURE / "model"),
        transformers.AutoModel.from_pretrained(FIXTURE / "model").eval(),
    )


def reference(texts: list[str]) -> Vectors:
    """Mean of the last hidden states, unit length, one text at a time. [N, 32]"""
    tokenizer, model = model_of_the_fixture()
    with torch.no_grad():
        means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(means)).numpy()


def stored(output: Path, run_id: str) -> tuple[pa.Table, Vectors]:
    """Rows of a run by id without the vectors, and the vectors [N, 32]."""
    parts = sorted((output / "data" / run_id).rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("id")
    column = table.column("embedding").combine_chunks()
    return table.drop_columns("embedding"), column.flatten().to_numpy().reshape(len(column), -1)


def run_ids(output: str) -> list[str]:
    return sorted(path.parent.name for path in (FIXTURE / output).glob("runs/*/run.json"))


def answer(*arguments: str) -> dict[str, Any]:
    """What `reembed ARGUMENTS --json` prints; it must end with status 0."""
    ended = local_run(*arguments, "--json")
    assert ended.rc == 0, ended.stdout
    return ended.summary


def assert_rows_of(night: int, output: Path, run_id: str) -> None:
    """A run's rows are the source's of that night, and its vectors the reference's."""
    rows, vectors = stored(output, run_id)
    wanted = dict(sorted(source_rows(night).items()))
    for name in ("id", "place", "year"):
        assert rows.column(name).to_pylist() == [row[name] for row in wanted.values()]
    assert (vectors * reference([row["text"] for row in wanted.values()])).sum(axis=1).min() >= 0.99999


@pytest.fixture(scope="module")
def finished(copied: Copied) -> Copy:
    """Two published snapshots; tests leave it as they meet it."""
    return copied("finished", 2)


def test_the_finished_snapshot_verifies(finished: Copy) -> None:
    report = answer("verify", str(finished.config), "--sample", "40")
    assert report["findings"] == []
    assert report["min_cosine"] > 0.9999
    assert_rows_of(2, finished.output, run_ids("finished")[1])


def test_the_finished_run_is_told_by_status_snapshots_and_files(finished: Copy) -> None:
    first, second = run_ids("finished")
    status = answer("status", str(finished.output))
    assert (status["run_id"], status["state"], status["published_run"]) == (second, "complete", second)
    assert status["shards"] == {"planned": 10, "done": 10, "quarantined": 0}
    assert (status["documents"], status["quarantined_rows"]) == (len(source_rows(2)), 1)
    listed = answer("snapshots", str(finished.output))["snapshots"]
    assert [(item["run_id"], item["current"], item["rows"]) for item in listed] == [
        (second, True, len(source_rows(2))),
        (first, False, len(source_rows(1))),
    ]
    files = answer("files", str(finished.output))["files"]
    assert sorted(map(Path, files)) == sorted((finished.output / "data" / second).glob("*.parquet"))


def differences(night: int, next_night: int) -> dict[str, int]:
    """Between the sources of two nights: rows added, with another text, with another kept column alone, deleted."""
    before, after = source_rows(night), source_rows(next_night)
    both = before.keys() & after.keys()
    texts = {key for key in both if before[key]["text"] != after[key]["text"]}
    return {
        "added": len(after.keys() - before.keys()),
        "changed": len(texts),
        "patched": sum(before[key] != after[key] for key in both - texts),
        "deleted": len(before.keys() - after.keys()),
    }


def test_changes_between_its_two_nights(finished: Copy, tmp_path: Path) -> None:
    report = answer("changes", str(finished.output), "--into", str(tmp_path))
    assert {name: report[name] for name in ("added", "changed", "patched", "deleted")} == differences(1, 2)
    before, after = (whole_rows(finished.output, run_id) for run_id in run_ids("finished"))
    assert apply_changes(before, report["files"]).sort_by("id").to_pylist() == after.to_pylist()


def whole_rows(output: Path, run_id: str) -> pa.Table:
    parts = sorted((output / "data" / run_id).rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts]).sort_by("id")


def test_rollback_there_and_back(copied: Copied) -> None:
    copy = copied("finished", 2)
    config, output = str(copy.config), str(copy.output)
    first, second = run_ids("finished")
    for night, run_id, left in ((1, first, second), (2, second, first)):
        copy.at_night(night)
        report = answer("rollback", config, run_id)
        assert (report["left"], report["changed"], report["rows"]) == (left, True, len(source_rows(night)))
        assert report["data"] == f"{output}/data/{run_id}", "the folder that it was made in is not there"
        assert {Path(file).parent.name for file in answer("files", output)["files"]} == {run_id}
        assert answer("verify", config, "--sample", "8")["findings"] == []


def test_the_same_corpus_again_has_nothing_to_do(finished: Copy) -> None:
    """No cluster is at the address: none is needed."""
    before = {path: path.read_bytes() for path in (finished.output / "data").rglob("*.parquet")}
    ended = local_embed(finished.config, "cluster.address=127.0.0.1:1")
    assert ended.rc == 0, ended.log
    summary = json.loads((FIXTURE / "finished" / "runs" / run_ids("finished")[1] / "summary.json").read_text())
    assert ended.summary == summary | {"unchanged": True}
    assert {path: path.read_bytes() for path in (finished.output / "data").rglob("*.parquet")} == before


@pytest.fixture(scope="module")
def resumed(copied: Copied) -> tuple[Path, Ended]:
    """The interrupted run, resumed. That its driver is dead is known after 20 s on any other machine than the driver's."""
    copy = copied("interrupted", 1)
    return copy.output, local_embed(copy.config)


def test_the_interrupted_run_resumes_to_the_end(resumed: tuple[Path, Ended]) -> None:
    output, ended = resumed
    assert ended.rc == 0, ended.log
    (run_id,) = run_ids("interrupted")
    summary = ended.summary
    assert (summary["run_id"], summary["published"], summary["sessions"]) == (run_id, True, 2)
    assert "8 shards to embed" in ended.log
    before = committed(FIXTURE / "interrupted")
    after = {Path(path).name: data for path, data in committed(output).items()}
    assert len(before) == 2
    assert len(after) == 10
    assert all(after[Path(path).name] == data for path, data in before.items()), "receipts are never written again"
    assert summary["quarantined_rows"] == 1
    assert_rows_of(1, output, run_id)


def test_resumed_rows_are_those_of_an_undisturbed_run_of_that_version(resumed: tuple[Path, Ended]) -> None:
    output, ended = resumed
    assert ended.rc == 0, ended.log
    rows, vectors = stored(output, run_ids("interrupted")[0])
    undisturbed, wanted = stored(FIXTURE / "finished", run_ids("finished")[0])
    assert rows.equals(undisturbed), "every column but the vectors"
    assert (vectors * wanted).sum(axis=1).min() >= 0.99999


def assert_readers_open_it(folder: Path, ids: list[str], vectors: Vectors) -> None:
    """Carried parts are byte-stream-split, today's are plain, all under one schema; a reader sees one table."""
    parts = list(folder.rglob("*.parquet"))
    assert {tuple(encodings(part)) for part in parts} == {("BYTE_STREAM_SPLIT",), ("PLAIN",)}
    assert all(pq.read_schema(part).equals(pq.read_schema(parts[0])) for part in parts)
    found = duckdb.sql(f"SELECT id, embedding FROM '{folder}/**/*.parquet' ORDER BY id").fetchnumpy()
    assert found["id"].tolist() == ids
    assert np.array_equal(np.stack(found["embedding"]), vectors)
    assert np.array_equal(pl.read_parquet(folder).sort("id")["embedding"].to_numpy(), vectors)
    assert np.array_equal(np.stack(pd.read_parquet(folder).sort_values("id")["embedding"].to_list()), vectors)
    whole = pq.read_table(folder).sort_by("id")["embedding"].combine_chunks()
    assert np.array_equal(whole.flatten().to_numpy().reshape(vectors.shape), vectors)


def test_the_finished_run_is_the_base_of_the_next_night(copied: Copied, tmp_path: Path) -> None:
    """Night 3: a.jsonl is gone; in d.parquet one text changed, one row is gone, one is new, one repeats another's text."""
    copy = copied("finished", 3)
    ended = local_embed(copy.config)
    assert ended.rc == 0, ended.log
    summary, base = ended.summary, run_ids("finished")[1]
    assert summary["published"]
    assert summary["reuse"]["base"] == base
    assert summary["reuse"]["objects"] == {"unchanged": 4, "changed": 1, "new": 0, "deleted": 1}
    assert summary["reuse"]["carried_shards"] == 7, "b, c and f lie in two shards each, e in one"
    now, before = source_rows(3), source_rows(2)
    known = {row["text"] for row in before.values() if row["place"] == "d"}
    carried = [row for row in now.values() if row["place"] in "bcef"]
    changed = [row for row in now.values() if row["place"] == "d"]
    assert summary["reused_rows"] == len(carried) + sum(row["text"] in known for row in changed)
    assert_rows_of(3, copy.output, summary["run_id"])
    (rows, vectors), (old_rows, old) = stored(copy.output, summary["run_id"]), stored(FIXTURE / "finished", base)
    at, at_base = ({key: place for place, key in enumerate(table.column("id").to_pylist())} for table in (rows, old_rows))
    kept = [key for key, row in now.items() if before.get(key, {}).get("text") == row["text"]]
    assert len(kept) == len(carried) + 12
    assert np.array_equal(vectors[[at[key] for key in kept]], old[[at_base[key] for key in kept]]), "the same bits"
    assert answer("verify", str(copy.config), "--sample", "40")["findings"] == []
    assert_readers_open_it(copy.output / "data" / summary["run_id"], rows.column("id").to_pylist(), vectors)
    changes = answer("changes", str(copy.output), "--into", str(tmp_path))
    assert {name: changes[name] for name in ("added", "changed", "patched", "deleted")} == differences(2, 3)
    applied = apply_changes(whole_rows(copy.output, base), changes["files"]).sort_by("id")
    assert applied.to_pylist() == whole_rows(copy.output, summary["run_id"]).to_pylist()

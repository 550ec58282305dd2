"""`reembed changes` as a loader calls it: counts, files, consumers, refusals."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.rollback import roll_back
from jobs.publish.change_sets import compare_runs, night_folder, stored_changes, write_night
from jobs.publish.open_snapshot import open_published
from jobs.state.stored_run import StoredRun
from tests.local_replicas import local_run
from tests.vector_snapshots import publish_next, publish_vectors
from tests.workers.output_samples import unit_vectors
from workers.storage.store import Store

ROWS, SHARDS = 40, 4  # 10 rows a shard


def _changed(output: Path, shard: int, rows: list[int], value: float) -> str:
    """The next night: these rows of a shard have other vectors."""
    run = open_published(str(output))
    table = pq.read_table(pa.BufferReader(run.store.read(run.receipts[shard].files[0].path)))
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    vectors[rows] = value
    return publish_next(output, {shard: vectors})


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Path, list[str]]:
    output = tmp_path / "out"
    runs = [publish_vectors(output, unit_vectors(ROWS), shards=SHARDS)]
    runs.append(_changed(output, 1, [2, 3], 0.5))
    return output, runs


def _changes(output: str | Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    ended = local_run("changes", output, *arguments, "--json")
    assert ended.rc == status, ended.log
    return dict(json.loads(ended.stdout))


def _counts(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[name] for name in ("added", "changed", "patched", "deleted"))


def test_from_the_snapshot_before(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, second) = nights
    counted = _changes(output)
    assert counted == {
        "from": first, "to": second, "added": 0, "changed": 2, "patched": 0, "deleted": 0, "rows": ROWS, "shared_keys": 0,
        "files": [],
    }  # fmt: skip
    written = _changes(output, "--into", tmp_path / "delta")
    assert written["files"] == [f"{tmp_path}/delta/{first}_{second}/upserts-00000.parquet"]
    table = pq.read_table(written["files"][0])
    assert table["id"].to_pylist() == ["12", "13"]
    assert (np.array(table["embedding"].to_pylist()) == 0.5).all()
    inode = Path(written["files"][0]).stat().st_ino
    assert _changes(output, "--into", tmp_path / "delta") == written
    assert Path(written["files"][0]).stat().st_ino == inode, "a set that is whole is not written again"
    document = json.loads((tmp_path / f"delta/{first}_{second}/changes.json").read_text())
    assert [(item["name"], item["rows"]) for item in document["files"]] == [("upserts-00000.parquet", 2)]


def test_between_any_two(nights: tuple[Path, list[str]]) -> None:
    output, (first, second) = nights
    third = _changed(output, 3, [0], 0.25)
    assert _counts(_changes(output)) == (0, 1, 0, 0)
    assert _counts(_changes(output, "--from", first)) == (0, 3, 0, 0)
    assert _counts(_changes(output, "--from", third, "--to", first)) == (0, 3, 0, 0), "backwards too"
    assert _counts(_changes(output, "--to", second)) == (0, 2, 0, 0)
    assert _counts(_changes(output, "--from", third)) == (0, 0, 0, 0)
    assert _counts(_changes(output, "--from", "none")) == (ROWS, 0, 0, 0)
    assert _counts(_changes(output, "--from", first, "--whole")) == (0, 3, 0, 0)


def test_told_to_people(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, second) = nights
    told = local_run("changes", output, "--consumer", "pg", "--into", tmp_path / "delta").stdout
    assert f"nothing -> {second} (40 rows)" in told
    assert f"then: --consumer pg --ack {second}" in told
    assert local_run("changes", output, "--consumer", "pg", "--ack", second).stdout == f"consumer pg: has {second}\n"
    assert "is forgotten" in local_run("changes", output, "--consumer", "pg", "--forget").stdout
    assert f"{first} -> {second}" in local_run("changes", output).stdout


def test_a_consumer_gets_each_change_once(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, second) = nights
    delta = tmp_path / "delta"
    pg = ("--consumer", "pg")
    assert _changes(output, *pg)["handed"] is None, "only counted"
    load = _changes(output, *pg, "--into", delta)
    assert (load["from"], load["to"], _counts(load), load["handed"]) == (None, second, (ROWS, 0, 0, 0), second)
    third = _changed(output, 3, [0], 0.25)
    assert _changes(output, *pg, "--into", delta) == load, "the very same until it is acknowledged"
    refused = local_run("changes", output, *pg, "--to", third, "--into", delta)
    assert refused.rc == 2
    assert f"was given {second} and has not acknowledged it" in refused.log
    assert _changes(output, *pg, "--ack", second) == {"consumer": "pg", "acknowledged": second, "handed": None}
    assert _changes(output, *pg, "--ack", second)["acknowledged"] == second
    step = _changes(output, *pg, "--into", delta)
    assert (step["from"], step["to"], _counts(step)) == (second, third, (0, 1, 0, 0))
    _changes(output, *pg, "--ack", third)
    done = _changes(output, *pg, "--into", delta)
    assert (done["from"], done["to"], _counts(done), done["files"], done["handed"]) == (third, third, (0, 0, 0, 0), [], None)
    roll_back(str(output), first)
    back = _changes(output, *pg, "--into", delta)
    assert (back["from"], back["to"], _counts(back)) == (third, first, (0, 3, 0, 0)), "a rollback is a change as well"


def test_a_store_that_was_loaded_otherwise(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, _) = nights
    assert _changes(output, "--consumer", "pg", "--ack", first)["acknowledged"] == first
    assert _counts(_changes(output, "--consumer", "pg", "--into", tmp_path / "delta")) == (0, 2, 0, 0)


def test_refused(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, second) = nights
    cases: list[tuple[list[str], str]] = [
        (["--from", "x"], f"--from: x is no snapshot that was published and is still kept; known: {second}, {first}"),
        (["--to", "x"], "--to: x is no snapshot"),
        (["--to", first], f"no snapshot before {first} is kept; name one (--from RUN_ID), or --from none for all rows"),
        (["--into", f"{output}/data/x"], "lies in the output itself; give another folder"),
        (["--consumer", "../x"], "--consumer '../x': up to 64 letters"),
        (["--consumer", "pg", "--from", first], "leave --from out"),
        (["--consumer", "pg", "--ack", "x"], "--ack: x is no snapshot"),
        (["--consumer", "pg", "--forget"], "knows no such consumer; known: none"),
        (["--ack", first], "go with --consumer NAME and with nothing else"),
        (["--forget"], "go with --consumer NAME"),
        (["--consumer", "pg", "--ack", first, "--into", "x"], "with nothing else"),
    ]
    before = Store(str(output), {}).list("")
    for arguments, told in cases:
        ended = local_run("changes", output, *arguments)
        assert (ended.rc, told in ended.log) == (2, True), (arguments, ended.log)
        assert len(ended.log.splitlines()) == 1
    left = {path for path in Store(str(output), {}).list("").keys() - before.keys() if "/lock/" not in path}
    assert {path for path in left if "/probe/" not in path} == set()
    assert local_run("changes", tmp_path / "nothing").rc == 2


def test_a_consumer_whose_snapshot_is_gone(nights: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, (first, _) = nights
    _changes(output, "--consumer", "pg", "--ack", first)
    (output / "runs" / first / "run.json").unlink()
    ended = local_run("changes", output, "--consumer", "pg", "--into", tmp_path / "delta")
    assert ended.rc == 2
    assert "its store must be loaded anew: --forget, then --from none" in ended.log


def test_a_part_that_is_gone(nights: tuple[Path, list[str]]) -> None:
    output, (first, _) = nights
    (output / "data" / first / "part-0000001.parquet").unlink()
    ended = local_run("changes", output)
    assert ended.rc == 2
    assert f"part-0000001.parquet: a part of snapshot {first} is missing or altered" in ended.log


def test_the_set_of_a_night_is_given_as_it_is(nights: tuple[Path, list[str]]) -> None:
    output, (first, second) = nights
    store = Store(str(output), {})
    runs = [StoredRun.open(store, run) for run in (first, second)]
    assert runs[0] is not None
    assert runs[1] is not None
    assert stored_changes(runs[0], runs[1]) is None
    made = compare_runs(runs[0], runs[1], night_folder(runs[1]))
    assert stored_changes(runs[0], runs[1]) == made
    files = [f"{output}/runs/{second}/changes/upserts-00000.parquet"]
    assert _changes(output)["files"] == files
    _changes(output, "--consumer", "pg", "--ack", first)
    given = _changes(output, "--consumer", "pg")
    assert (given["files"], given["handed"]) == (files, second)
    Path(files[0]).unlink()
    assert stored_changes(runs[0], runs[1]) is None, "no longer whole"
    assert write_night(runs[1], lambda: None) is None, "it is published already"


@pytest.mark.slow
def test_killed_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a killed command leaves, the next one makes the same files, and removes those of other parts."""
    import workers.snapshot.changes.write as write_module
    from jobs.publish.change_sets import Folder
    from tests.jobs.snapshot_samples import Killed, Mortal

    monkeypatch.setattr(write_module, "ROW_GROUP_ROWS", 1)
    monkeypatch.setattr(write_module, "FILE_BYTES", 1)
    output = tmp_path / "out"
    first = publish_vectors(output, unit_vectors(ROWS), shards=SHARDS)
    for shard in range(SHARDS):
        second = _changed(output, shard, [0, 9], 0.5)
    monkeypatch.setattr("workers.snapshot.changes.scan.BATCH_ROWS", 1)
    store = Store(str(output), {})
    old, new = StoredRun.open(store, first), StoredRun.open(store, second)
    assert old is not None
    assert new is not None
    undisturbed = compare_runs(old, new, Folder(Store(str(tmp_path / "a"), {}), "set"))
    assert (undisturbed.counts.changed, len(undisturbed.files)) == (8, 8)
    wanted = {path: (tmp_path / "a" / path).read_bytes() for path in Store(str(tmp_path / "a"), {}).list("")}
    for moment in range(10):
        where = tmp_path / f"b{moment}"
        Store(str(where), {}).put("set/upserts-00099.parquet", b"of an earlier attempt over other parts")
        mortal = Mortal(where, moment, after=moment % 2 == 1)
        mortal.armed = True
        with pytest.raises(Killed):
            compare_runs(old, new, Folder(mortal, "set"))
        again = compare_runs(old, new, Folder(Store(str(where), {}), "set"))
        assert again.counts == undisturbed.counts
        assert {path: (where / path).read_bytes() for path in Store(str(where), {}).list("")} == wanted


@pytest.mark.s3
def test_on_s3(s3_bucket: str) -> None:
    folder = f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}"
    run = publish_vectors(f"{folder}/out", unit_vectors(ROWS), shards=SHARDS)
    report = _changes(f"{folder}/out", "--consumer", "pg", "--into", f"{folder}/delta")
    assert report["files"] == [f"{folder}/delta/none_{run}/upserts-00000.parquet"]
    table = pq.read_table(pa.BufferReader(Store(folder, {}).read(f"delta/none_{run}/upserts-00000.parquet")))
    assert sorted(map(int, table["id"].to_pylist())) == list(range(ROWS))
    assert _changes(f"{folder}/out", "--consumer", "pg", "--ack", run)["acknowledged"] == run
    assert _changes(f"{folder}/out", "--consumer", "pg", "--into", f"{folder}/delta")["files"] == []

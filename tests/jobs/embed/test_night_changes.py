"""output.changes: a night's change set is there before readers get its snapshot, and holds exactly what changed."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import workers.snapshot.changes.compare as compare_module
import workers.snapshot.changes.scan as scan_module
import workers.snapshot.changes.write as write_module
from jobs.config import RunConfig
from jobs.embed.job import embed_corpus
from jobs.state.current import read_current
from tests.documented import apply_changes
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, days_apart, rows, settings
from tests.jobs.snapshot_samples import Killed
from workers.errors import RunAborted
from workers.storage.store import Store

pytestmark = pytest.mark.slow
Doc = tuple[str, str, str]  # id, text, lang


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


def _write(store: Store, objects: Mapping[str, Sequence[Doc]]) -> None:
    for name, docs in objects.items():
        columns = dict(zip(("id", "text", "lang"), map(list, zip(*docs, strict=True)), strict=True))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, use_dictionary=False)
        store.put(f"corpus/{name}.parquet", sink.getvalue().to_pybytes())


def _snapshot(store: Store, run_id: str) -> pa.Table:
    paths = sorted(store.list(f"out/data/{run_id}"))
    found = pa.concat_tables([pq.read_table(pa.BufferReader(store.read(path))) for path in paths])
    return found.replace_schema_metadata(None)


def _sorted(table: pa.Table) -> pa.Table:
    return table.select(sorted(table.column_names)).sort_by("id").combine_chunks()


def _files(summary: Mapping[str, Any]) -> list[str]:
    return list(summary["changes"]["files"])


@pytest.mark.s3
def test_night_2_of_thirty_thousand(
    s3_bucket: str, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 changed, 100 deleted, 200 added, 50 with another kept column, one object renamed: exactly those, applied.

    On S3, where an object is known by its ETag whatever its name.
    """
    store = Store(f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}", {})
    opened: list[str] = []
    real = scan_module.open_part

    def counted(store: Store, path: str, **more: Any) -> Any:
        opened.append(path)
        return real(store, path, **more)

    monkeypatch.setattr(scan_module, "open_part", counted)
    compared: list[Any] = []
    monkeypatch.setattr(compare_module, "part_vectors", lambda *_: compared.append(_) or iter(()))
    config = settings(
        store.uri, small_model, corpus={"keep": ["lang"]}, output={"changes": True}, run={"shard_bytes": 128 << 10}
    )
    objects = {
        f"o{at:02d}": [(f"{at}-{row}", f"text {row} of object {at}, with words", "de") for row in range(2500)]
        for at in range(12)
    }
    _write(store, objects)
    first = embed_corpus(config)
    assert (first["rows"], first["changes"], opened) == (30_000, None, [])

    for name in ("o00", "o01", "o02"):
        objects[name] = [
            (key, f"new {text}" if row < 100 else text, lang) for row, (key, text, lang) in enumerate(objects[name])
        ]
    objects["o03"] = objects["o03"][100:]
    objects["o04"] = [*objects["o04"], *((f"new-{row}", f"added text {row}", "fr") for row in range(200))]
    objects["o05"] = [(key, text, "en" if row < 50 else lang) for row, (key, text, lang) in enumerate(objects["o05"])]
    _write(store, {name: objects[name] for name in ("o00", "o01", "o02", "o03", "o04", "o05")})
    store.copy("corpus/o06.parquet", "corpus/z06.parquet")
    store.delete("corpus/o06.parquet")
    second = embed_corpus(config)

    counts = {"added": 200, "changed": 300, "patched": 50, "deleted": 100}
    assert {name: second["changes"][name] for name in counts} == counts
    assert (second["changes"]["from"], second["changes"]["to"]) == (first["run_id"], second["run_id"])
    files = []
    for file in _files(second):  # as the documented code reads them
        files.append(str(tmp_path / file.rpartition("/")[2]))
        Path(files[-1]).write_bytes(store.read(file.removeprefix(f"{store.uri}/")))
    tables = [pq.read_table(file) for file in files]
    ops: dict[str, set[str]] = {op: set() for op in counts}
    for table in tables:
        for op, key in zip(table["op"].to_pylist(), table["id"].to_pylist(), strict=True):
            ops[op].add(key)
    assert ops == {
        "added": {f"new-{row}" for row in range(200)},
        "changed": {f"{at}-{row}" for at in range(3) for row in range(100)},
        "patched": {f"5-{row}" for row in range(50)},
        "deleted": {f"3-{row}" for row in range(100)},
    }
    before, after = _snapshot(store, first["run_id"]), _snapshot(store, second["run_id"])
    assert _sorted(apply_changes(before, files)).equals(_sorted(after))

    by_night = Counter(path.split("/")[1] for path in set(opened))
    assert by_night == {first["run_id"]: 6, second["run_id"]: 6}, "the parts of six objects of twelve"
    assert compared == [], "receipts prove that vectors of the same texts were taken over"
    stored = json.loads(store.read(f"out/runs/{second['run_id']}/summary.json"))
    assert stored["changes"] == second["changes"]


def _night_2(folder: Path) -> None:
    corpus_of(folder / "corpus", {"b": rows("b", 24, changed=6), "e": rows("e", 3)})
    (folder / "corpus/c.parquet").unlink()


def _told(files: Sequence[str]) -> dict[str, pa.Table]:
    return {Path(file).name: pq.read_table(file).replace_schema_metadata(None) for file in files}


def test_killed_while_the_set_is_put(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers have night 1 until the set of night 2 is whole; the same command then ends with the same set."""
    monkeypatch.setattr(write_module, "ROW_GROUP_ROWS", 1)
    monkeypatch.setattr(write_module, "FILE_BYTES", 1)
    monkeypatch.setattr(scan_module, "BATCH_ROWS", 1)
    put, left = Store.put, [1 << 30]

    def mortal(self: Store, path: str, data: bytes) -> None:
        if "/changes/" in path:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        put(self, path, data)

    monkeypatch.setattr(Store, "put", mortal)

    def two_nights(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
        config = settings(folder, small_model, output={"changes": True})
        corpus_of(folder / "corpus", NIGHT_1)
        first = embed_corpus(config)
        _night_2(folder)
        return config, first

    config, _ = two_nights(tmp_path / "undisturbed")
    whole = embed_corpus(config)
    wanted = _told(_files(whole))
    told = whole["changes"]
    assert (told["added"], told["changed"], told["deleted"], len(wanted)) == (7, 2, 20, 29)
    config, first = two_nights(tmp_path / "killed")
    store = Store(config.output.uri, {})
    for moment in (0, 11, 21, 29):
        left[0] = moment
        with pytest.raises(Killed):
            embed_corpus(config)
        current = read_current(store)
        assert current is not None
        assert current.run_id == first["run_id"]
    left[0] = 1 << 30
    second = embed_corpus(config)
    assert second["published"]
    found = _told(_files(second))
    assert found.keys() == wanted.keys()
    for name, table in wanted.items():
        assert found[name].equals(table), name


def test_a_part_that_is_embedded_again_is_compared_again(tmp_path: Path, small_model: Path) -> None:
    """A part of the new run vanishes between the set and the flip: readers find the set of the parts that they find."""
    config = settings(tmp_path, small_model, output={"changes": True})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    _night_2(tmp_path)
    import jobs.embed.job as job

    real, seen = job.write_night, list[Any]()

    def and_lose_a_part(run: Any, check: Any) -> Any:
        seen.append(real(run, check))
        if len(seen) == 1:
            (path,) = [file.path for file in run.files if file.rows == 3]
            Store(config.output.uri, {}).delete(path)
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "write_night", and_lose_a_part)
        summary = embed_corpus(config)
    assert summary["published"]
    assert [item["added"] for item in seen] == [7, 7]


def test_snapshots_that_cannot_be_compared_are_published_without(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tmp_path, small_model, output={"changes": True})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    _night_2(tmp_path)
    for path in Path(first["data"]).glob("*.parquet"):
        path.write_bytes(b"damaged" * 100)
    with caplog.at_level("WARNING", "reembed"):
        summary = embed_corpus(config)
    assert summary["published"]
    assert summary["changes"] is None
    assert "output.changes: nothing is written: " in caplog.text


def test_stopped_by_a_lost_lock(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, small_model, output={"changes": True})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    first = embed_corpus(config)
    _night_2(tmp_path)
    import jobs.embed.job as job

    def lost(driver: Any) -> Any:
        def check() -> None:
            raise RunAborted("another driver")

        return check

    with monkeypatch.context() as patch:
        patch.setattr(job, "_checked", lost)
        with pytest.raises(RunAborted, match="another driver"):
            embed_corpus(config)
    current = read_current(Store(config.output.uri, {}))
    assert current is not None
    assert current.run_id == first["run_id"]
    assert embed_corpus(config)["published"]


def test_the_setting_begins_no_new_run(tmp_path: Path, small_model: Path) -> None:
    corpus_of(tmp_path / "corpus", NIGHT_1)
    plain = settings(tmp_path, small_model)
    assert "changes" not in plain.model_dump(mode="json")["output"]
    embed_corpus(plain)
    assert embed_corpus(settings(tmp_path, small_model, output={"changes": True}))["unchanged"]

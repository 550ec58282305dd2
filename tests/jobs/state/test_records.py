"""Which run is resumed follows from what is stored, and no secret is."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.config import RunConfig, parse_config
from jobs.state.records import (
    RunRecord,
    config_snapshot,
    create_run,
    find_unfinished,
    list_runs,
    new_run_id,
    newest_run,
    plan_from_json,
    plan_to_json,
    read_run,
    read_status,
    read_summary,
    settings_fingerprint,
    write_status,
    write_summary,
)
from workers.errors import RunAborted
from workers.records.documents import Exclusion, ReadPlan
from workers.storage.store import Store
from workers.table.paths import RunPaths

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "PLANTED-SECRET"
KEEP = pa.schema(
    [
        pa.field("lang", pa.dictionary(pa.int32(), pa.string()), metadata={"why": "ß"}),
        pa.field("nested", pa.list_(pa.struct([pa.field("at", pa.timestamp("us", "UTC"), nullable=False)]))),
    ],
    metadata={"k": "v"},
)


def _config(**sections: dict[str, Any]) -> RunConfig:
    raw: dict[str, Any] = {"corpus": {"uri": "s3://corpus/"}, "output": {"uri": "s3://out/"}}
    for section, values in sections.items():
        raw[section] = raw.get(section, {}) | values
    return parse_config(raw, "test")


def _record(run_id: str, fingerprint: str = "f") -> RunRecord:
    plan = ReadPlan(_config().corpus, pa.int64(), KEEP)
    return RunRecord(
        run_id=run_id,
        fingerprint=fingerprint,
        source_fingerprint="s",
        config=config_snapshot(_config()),
        plan=plan_to_json(plan),
        model={"dim": 384},
        shards=3,
        rows=None,
        code_version="0",
        created="2026-11-20T12:00:00+00:00",
        int8_scale=0.1234567890123456789,
    )


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}", {})
    return Store(str(tmp_path / "out"), {})


def test_ids_sort_by_time_and_keep_runs_of_one_second_apart() -> None:
    moments = [NOON + timedelta(microseconds=1), NOON + timedelta(seconds=1), NOON + timedelta(days=20)]
    ids = [new_run_id("f", moment) for moment in moments]
    assert ids[0].startswith("20261120T120000Z-")
    assert ids[1:] == sorted(ids[1:])
    assert ids[0] < ids[1]
    assert ids[0] != new_run_id("f", NOON)
    assert new_run_id("f", NOON) == new_run_id("f", NOON.astimezone(tz=None))


def test_a_run_comes_back_as_it_was_stored(store: Store) -> None:
    record = _record(new_run_id("f", NOON))
    assert read_run(store, record.run_id) is None
    create_run(store, record)
    create_run(store, record)
    assert read_run(store, record.run_id) == record
    with pytest.raises(RunAborted, match=r"run\.json: is another run's"):
        create_run(store, replace(record, shards=4))
    plan = record.read_plan(_config(corpus={"storage_options": {"secret": "x"}}).corpus)
    assert plan.id_type == pa.int64()
    assert plan.keep.equals(KEEP, check_metadata=True)
    assert plan.corpus.storage_options == {"secret": "x"}


@pytest.mark.parametrize("id_type", [pa.int64(), pa.string()])
@pytest.mark.parametrize("keep", [KEEP, pa.schema([])])
def test_a_read_plan_survives_json(id_type: pa.DataType, keep: pa.Schema) -> None:
    raw = json.loads(json.dumps(plan_to_json(ReadPlan(_config().corpus, id_type, keep))))
    plan = plan_from_json(raw, _config().corpus)
    assert plan.id_type == id_type
    assert plan.keep.equals(keep, check_metadata=True)


def test_only_begun_runs_are_listed(store: Store) -> None:
    assert list_runs(store) == []
    assert newest_run(store) is None
    ids = [new_run_id("f", NOON + timedelta(hours=hour)) for hour in range(4)]
    for run_id in (ids[2], ids[0]):
        create_run(store, _record(run_id))
    store.put(RunPaths(ids[3]).manifest, b"killed while it was planned")
    store.put("runs/lock/00000001.json", b"{}")
    assert list_runs(store) == [ids[0], ids[2]]
    newest = newest_run(store)
    assert newest is not None
    assert newest.run_id == ids[2]


@pytest.mark.parametrize(
    ("state", "resumed"),
    [(None, True), ("running", True), ("stopped", True), ("aborted", True), ("complete", False), ("refused", False)],
)
def test_a_run_is_resumed_unless_it_ended(tmp_path: Path, state: str | None, resumed: bool) -> None:
    store, run_id = Store(str(tmp_path), {}), new_run_id("f", NOON)
    create_run(store, _record(run_id, "f"))
    create_run(store, _record(new_run_id("g", NOON + timedelta(hours=1)), "g"))
    if state:
        write_summary(store, run_id, {"state": state})
    found = find_unfinished(store, "f")
    assert (found.run_id if found else None) == (run_id if resumed else None)
    assert find_unfinished(store, "h") is None


def test_an_older_unfinished_run_is_not_resumed_past_a_complete_one(tmp_path: Path) -> None:
    store, newer = Store(str(tmp_path), {}), new_run_id("f", NOON + timedelta(hours=1))
    create_run(store, _record(new_run_id("f", NOON)))
    create_run(store, _record(newer))
    write_summary(store, newer, {"state": "complete"})
    assert find_unfinished(store, "f") is None


def test_status_and_summary_are_replaced(store: Store) -> None:
    run_id = new_run_id("f", NOON)
    assert read_status(store, run_id) is None
    assert read_summary(store, run_id) is None
    for done in (1, 2):
        write_status(store, run_id, {"done": done})
    write_summary(store, run_id, {"state": "complete"})
    assert read_status(store, run_id) == {"done": 2}
    assert read_summary(store, run_id) == {"state": "complete"}


@pytest.mark.parametrize("data", [b"", b"[]", b'{"run_id": "x"}', b'{"half'])
def test_a_damaged_record_is_named(tmp_path: Path, data: bytes) -> None:
    store, run_id = Store(str(tmp_path), {}), new_run_id("f", NOON)
    store.put(RunPaths(run_id).record, data)
    with pytest.raises(RunAborted, match=r"run\.json: (not a document|written by another version)"):
        read_run(store, run_id)


def test_the_snapshot_of_the_configuration_holds_no_secret() -> None:
    options = {"storage_options": {"key": "k", "secret": SECRET, "deep": {"token": SECRET}}}
    config = _config(
        corpus=options | {"uri": f"https://me:{SECRET}@host/a.jsonl?sig={SECRET}"},
        model=options | {"name": f"https://me:{SECRET}@host/model"},
        output=options,
    )
    stored = json.dumps(config_snapshot(config))
    assert SECRET not in stored
    assert "storage_options" not in stored
    assert "https://host/a.jsonl" in stored


def _print(
    weights: str = "w", tokenizer: str = "t", recipe: dict[str, Any] | None = None, **sections: dict[str, Any]
) -> str:
    return settings_fingerprint(_config(**sections), weights, tokenizer, recipe)


@pytest.mark.parametrize(
    "changed",
    [
        {"corpus": {"uri": "s3://other/"}},
        {"corpus": {"text": ["title", "text"]}},
        {"corpus": {"keep": ["lang"]}},
        {"model": {"pooling": "cls"}},
        {"model": {"prompt": "passage: "}},
        {"model": {"precision": "float16"}},
        {"model": {"max_tokens": 128}},
        {"output": {"vector": "int8"}},
        {"output": {"partition_by": ["lang"]}},
        {"run": {"shard_bytes": 1 << 20}},
        {"weights": "other"},
        {"tokenizer": "other"},
        {"recipe": {"pooling": "cls"}},
        {"recipe": {"tokenizer": "4f2a"}},
        {"recipe": {"engine": "alone"}},
        {"model": {"query_prompt": "query: "}},
    ],
)
def test_what_changes_the_result_changes_the_fingerprint(changed: dict[str, Any]) -> None:
    assert _print(**changed) != _print()


@pytest.mark.parametrize(
    "changed",
    [
        {"corpus": {"storage_options": {"secret": "new"}}},
        {"model": {"storage_options": {"secret": "new"}}},
        {"model": {"name": "/another/copy", "revision": "main"}},
        {"output": {"uri": "s3://elsewhere/", "storage_options": {"secret": "new"}}},
        {"output": {"parquet": {"vector_encoding": "byte_stream_split"}}},
        {"cluster": {"replicas": 9, "gpus_per_replica": 0.5}},
        {"run": {"max_attempts": 9, "max_quarantined_rows": -1, "stall_seconds": 1.0}},
        {"cost": {"gpu_hour_usd": 2.5}},
        {"model": {"prompt": ""}},  # the stored default of version 0.1; the recipe tells it from the model's own
        {"recipe": {"tokenizer": "", "engine": "", "query_tokens": None}},
    ],
)
def test_what_does_not_change_the_result_resumes_the_run(changed: dict[str, Any]) -> None:
    assert _print(**changed) == _print()


def test_an_exclusion_is_stored_with_the_plan_and_known_by_its_run() -> None:
    excluding = _config(corpus={"uri": "s3://key:secret@bucket/corpus/", "exclude": "s3://key:secret@bucket/dd/"})
    plain = _config(corpus={"uri": "s3://key:secret@bucket/corpus/"})
    pinned = Exclusion("s3://bucket/dd", "20260101T000000Z-00000000", 3, "ab")
    plan = ReadPlan(excluding.corpus, pa.int64(), KEEP, exclusion=pinned)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan))), excluding.corpus).exclusion == pinned
    assert "exclude" not in plan_to_json(ReadPlan(plain.corpus, pa.int64(), KEEP))
    assert "secret" not in json.dumps(config_snapshot(excluding))
    assert "exclude" not in config_snapshot(plain)["corpus"]
    fingerprints = [settings_fingerprint(excluding, "w", "t", None, run) for run in ("one", "two")]
    assert len({*fingerprints, settings_fingerprint(plain, "w", "t")}) == 3

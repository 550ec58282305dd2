"""Nights over a table, without Ray: the pinned version, deleted rows, what is opened again, and whole snapshots."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.corpus.footers
import jobs.corpus.tables.lance
import jobs.embed.session
import workers.reading.reader
import workers.storage.stream
from jobs.commands.plan import plan_run
from jobs.commands.verify import verify_snapshot
from jobs.config import RunConfig
from jobs.driver.signals import Stopped
from jobs.embed.job import embed_corpus
from tests.jobs.corpus.tables import delta_logs, iceberg_tables
from tests.jobs.nights import FILLER, HandSession, by_hand, days_apart, rows_of, settings
from workers.records.shard import ObjectSlice
from workers.storage.store import Store

deltalake = pytest.importorskip("deltalake")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the data files of which anything was read: footers by the driver, rows by replicas."""
    names: set[str] = set()
    by_driver, by_replica = jobs.corpus.footers.read_range, workers.storage.stream.open_object

    def read_range(uri: str, *arguments: Any) -> bytes:
        names.add(uri.rpartition("/")[2])
        return by_driver(uri, *arguments)

    def open_object(uri: str, *arguments: Any, **options: Any) -> Any:
        names.add(uri.rpartition("/")[2])
        return by_replica(uri, *arguments, **options)

    monkeypatch.setattr(jobs.corpus.footers, "read_range", read_range)
    monkeypatch.setattr(workers.storage.stream, "open_object", open_object)
    return names


def documents(begin: int, end: int, lang: str = "en") -> pa.Table:
    rows = range(begin, end)
    texts = [f"text {row} of the table{FILLER}" for row in rows]
    return pa.table({"id": [f"{row:04d}" for row in rows], "text": texts, "lang": [lang] * len(rows)})


def write(folder: str, table: pa.Table, **options: Any) -> None:
    properties = deltalake.WriterProperties(max_row_group_size=10)
    deltalake.write_deltalake(
        f"{folder}/table", table, mode="append", partition_by=["lang"], writer_properties=properties,
        storage_options=access(), **options,
    )  # fmt: skip


def access() -> dict[str, str]:
    return {"AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": os.environ.get("AWS_ENDPOINT_URL", "")}


def config_of(folder: str, model: Path, **corpus: Any) -> RunConfig:
    section = {"uri": f"{folder}/table", "id": "id", "table": "delta", "keep": ["lang"]} | corpus
    return settings(folder, model, corpus=section, gate={"max_row_change": 1})


def library(folder: str, version: int | None = None) -> list[dict[str, Any]]:
    """Ids and languages by deltalake's own reader."""
    table = deltalake.DeltaTable(f"{folder}/table", version=version, storage_options=access())
    builder = deltalake.QueryBuilder().register("t", table)
    rows = pa.table(builder.execute("select id, lang from t").read_all())
    return rows.cast(pa.schema({"id": pa.string(), "lang": pa.string()})).sort_by("id").to_pylist()


def published(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return rows_of(summary["data"]).select(["id", "lang"]).to_pylist()


def sound(config: RunConfig, summary: dict[str, Any]) -> None:
    """The audit passes, and the rows and vectors are those of a run that reused nothing."""
    assert verify_snapshot(config.output.uri, 0)["findings"] == []
    afresh = embed_corpus(
        config.model_copy(
            update={
                "output": config.output.model_copy(update={"uri": f"{config.output.uri}-afresh-{summary['run_id']}"}),
                "run": config.run.model_copy(update={"reuse": "off"}),
            }
        )
    )
    assert afresh["reused_rows"] == 0
    assert rows_of(summary["data"]).equals(rows_of(afresh["data"]))


def test_the_second_night_opens_new_files_alone(folder: str, small_model: Path, opened: set[str]) -> None:
    config = config_of(folder, small_model)
    for begin, lang in ((0, "en"), (20, "de"), (40, "a/b ü")):
        write(folder, documents(begin, begin + 20, lang))
    first = embed_corpus(config)
    assert (first["documents"], first["quarantined_rows"]) == (60, 0)
    assert published(first) == library(folder)
    before = set(opened)
    assert len(before) == 3
    opened.clear()

    write(folder, documents(60, 75, "en"))
    planned = plan_run(config)
    assert planned["reuse"]["objects"] == {"unchanged": 3, "changed": 0, "new": 1, "deleted": 0}
    second = embed_corpus(config)
    assert len(opened) == 1
    assert not opened & before
    assert (second["documents"], second["reused_rows"]) == (75, 60)
    assert published(second) == library(folder)
    assert verify_snapshot(config.output.uri, 0)["findings"] == []

    opened.clear()
    deltalake.DeltaTable(f"{folder}/table", storage_options=access()).create_checkpoint()
    again = embed_corpus(config)
    assert again["unchanged"]
    assert opened == set()


def test_only_shards_whose_rows_were_deleted_are_read_again(tmp_path: Path, small_model: Path, opened: set[str]) -> None:
    """A deletion vector on one row group of three, in one of two files; the file itself is the same."""
    folder, config = str(tmp_path), config_of(str(tmp_path), small_model)
    for begin in (0, 30):
        write(folder, documents(begin, begin + 30))
    first = embed_corpus(config)
    where = tmp_path / "table"
    path = next(name for name in delta_logs.live_paths(where) if pq.read_table(where / name)["id"][0].as_py() == "0000")
    opened.clear()
    delta_logs.commit(where, delta_logs.protocol("deletionVectors"))
    delta_logs.commit(where, *delta_logs.replaced(where, path, delta_logs.stored(where, [11, 12, 19])))
    second = embed_corpus(config)
    assert opened == {path.rpartition("/")[2]}
    assert second["reuse"]["objects"] == {"unchanged": 1, "changed": 1, "new": 0, "deleted": 0}
    assert second["reuse"]["carried_shards"] == first["shards"]["planned"] - 1
    assert (second["documents"], second["reused_rows"], second["quarantined_rows"]) == (57, 57, 0)
    assert published(second) == library(folder)
    assert verify_snapshot(config.output.uri, 0)["findings"] == []

    delta_logs.commit(where, *delta_logs.replaced(where, path, delta_logs.inline(range(10, 20))))
    third = embed_corpus(config)  # nothing of a row group is left
    assert (third["documents"], third["quarantined_rows"]) == (50, 0)
    assert published(third) == library(folder)
    delta_logs.commit(where, *delta_logs.replaced(where, path, delta_logs.inline([29])))
    fourth = embed_corpus(config)  # its rows are back
    assert (fourth["documents"], fourth["quarantined_rows"]) == (59, 0)
    assert published(fourth) == library(folder)
    sound(config, fourth)


def test_a_killed_run_ends_with_the_version_that_it_was_planned_for(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = str(tmp_path), config_of(str(tmp_path), small_model)
    for begin in (0, 20, 40):
        write(folder, documents(begin, begin + 20))
    embed_shard, done = jobs.embed.session.Session, itertools.count()

    class Killed(HandSession):
        def embed(self, *arguments: Any) -> Any:
            raise Stopped(15)

    monkeypatch.setattr(jobs.embed.session, "Session", Killed)
    with pytest.raises(Stopped):
        embed_corpus(config)
    monkeypatch.setattr(jobs.embed.session, "Session", embed_shard)
    table = deltalake.DeltaTable(f"{folder}/table")
    table.delete("id < '0010'")
    write(folder, documents(60, 65))
    summary = embed_corpus(config)
    assert next(done) == 0
    assert (summary["documents"], summary["quarantined_rows"]) == (60, 0)
    assert published(summary) == library(folder, 2)
    assert verify_snapshot(config.output.uri, 0)["findings"] == []
    record = json.loads(Store(config.output.uri, {}).read(f"runs/{summary['run_id']}/run.json"))
    assert record["plan"]["table"] | {"uri": ""} == {
        "format": "delta", "uri": "", "version": "2", "columns": [], "types": [["lang", "string"]],
    }  # fmt: skip
    later = embed_corpus(config)
    assert published(later) == library(folder)


def test_a_named_version_is_another_corpus_of_the_same_files(tmp_path: Path, small_model: Path, opened: set[str]) -> None:
    folder = str(tmp_path)
    for begin in (0, 20, 40):
        write(folder, documents(begin, begin + 20))
    newest = embed_corpus(config_of(folder, small_model, table_version=2))
    opened.clear()
    older = embed_corpus(config_of(folder, small_model, table_version=1))
    assert opened == set()
    assert (older["documents"], older["reused_rows"]) == (40, 40)
    assert published(older) == library(folder, 1)
    assert newest["documents"] == 60


def test_of_a_lance_table_only_new_fragments_and_runs_with_deleted_rows_are_read(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lance, where = pytest.importorskip("lance"), tmp_path / "table"
    read: list[str] = []
    by_lance = workers.reading.reader.read_fragment

    def read_fragment(piece: ObjectSlice, *arguments: Any) -> Any:
        read.append(f"{piece.uri.rpartition('/')[2]} {piece.start}")
        return by_lance(piece, *arguments)

    monkeypatch.setattr(workers.reading.reader, "read_fragment", read_fragment)
    monkeypatch.setattr(jobs.corpus.tables.lance, "WINDOW_ROWS", 10)
    for begin in (0, 30):
        lance.write_dataset(documents(begin, begin + 30), where, mode="append" if begin else "create")
    config = config_of(str(tmp_path), small_model, table="lance")
    first = embed_corpus(config)
    assert (first["documents"], len(read)) == (60, 6)
    read.clear()
    lance.dataset(where).delete("id in ('0011', '0019')")
    lance.write_dataset(documents(60, 65), where, mode="append")
    second = embed_corpus(config)
    assert read == ["fragment-0 1", "fragment-2 0"]
    assert (second["documents"], second["reused_rows"], second["quarantined_rows"]) == (63, 58, 0)
    rows = lance.dataset(where).to_table(columns=["id", "lang"]).sort_by("id")
    assert published(second) == rows.to_pylist()
    assert verify_snapshot(config.output.uri, 0)["findings"] == []


def test_of_an_iceberg_table_only_new_files_and_shards_with_deleted_rows_are_opened(
    tmp_path: Path, small_model: Path, opened: set[str]
) -> None:
    pytest.importorskip("sqlalchemy")
    catalog = iceberg_tables.catalog(tmp_path / "lake")
    table = catalog.create_table("docs.pages", documents(0, 1).schema, properties={"write.parquet.row-group-limit": "10"})
    for begin in (0, 30):
        table.append(documents(begin, begin + 30))
    config = config_of(
        str(tmp_path),
        small_model,
        uri="docs.pages",
        table="iceberg",
        table_options=iceberg_tables.options(tmp_path / "lake"),
    )
    first = embed_corpus(config)
    one, _ = iceberg_tables.data_files(table)
    before = set(opened)
    opened.clear()
    iceberg_tables.add_deletes(table, iceberg_tables.positional(table, [(one, 11), (one, 19)]))
    table.refresh()
    table.append(documents(60, 65))
    second = embed_corpus(config)
    assert opened & before == {one.rpartition("/")[2]}
    assert len(opened - before) == 1
    assert second["reuse"]["carried_shards"] == first["shards"]["planned"] - 1
    assert (second["documents"], second["reused_rows"], second["quarantined_rows"]) == (63, 58, 0)
    assert published(second) == table.scan(selected_fields=("id", "lang")).to_arrow().sort_by("id").to_pylist()
    assert verify_snapshot(config.output.uri, 0)["findings"] == []
    older = embed_corpus(config.model_copy(update={
        "corpus": config.corpus.model_copy(update={"table_version": table.history()[1].snapshot_id})}))  # fmt: skip
    assert (older["documents"], older["reused_rows"]) == (60, 58), "two rows are back that the last snapshot lacks"

"""output.table over nights: the table has what CURRENT.json names, and is a corpus. Kills: faults/test_kill_table.py."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

from jobs.commands.rollback import roll_back
from jobs.embed.job import embed_corpus
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, days_apart, rows, rows_of, settings
from tests.jobs.publish.tables.folders_and_tables import (
    current,
    delta_rows,
    folder_rows,
    polars_rows,
    register,
    tables_agree,
)
from tests.vector_snapshots import publish_vectors
from workers.config import CorpusConfig, OutputTable
from workers.errors import UsageError
from workers.reading.tables.credentials import file_io_properties, object_store_options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    days_apart(monkeypatch)


def _night_2(folder: Path) -> None:
    corpus_of(folder / "corpus", {"b": rows("b", 24, changed=6), "e": rows("e", 3)})
    (folder / "corpus/c.parquet").unlink()


def test_nights_carried_over_parts_retention_and_rollback(tmp_path: Path, small_model: Path) -> None:
    output = tmp_path / "out"
    corpus_of(tmp_path / "corpus", NIGHT_1)
    plain = settings(tmp_path, small_model, output={"keep_snapshots": 2})
    config = settings(tmp_path, small_model, output={"keep_snapshots": 2, "table": "delta"})
    first = embed_corpus(plain)
    assert "table" not in current(output)
    assert embed_corpus(config)["unchanged"], "the table is made of the snapshot that is there; nothing is embedded"
    assert (current(output)["table"], current(output)["run_id"]) == ("delta", first["run_id"])
    assert delta_rows(output) == folder_rows(output)
    assert embed_corpus(config)["unchanged"]
    assert DeltaTable(output / "data").version() == 0

    _night_2(tmp_path)
    second = embed_corpus(config)
    assert second["reuse"]["carried_shards"] == 4
    assert delta_rows(output) == polars_rows(output, OutputTable.DELTA) == folder_rows(output)
    assert tables_agree(output, OutputTable.DELTA)
    roll_back(str(output), first["run_id"])
    assert tables_agree(output, OutputTable.DELTA)
    assert len(delta_rows(output)) == 80
    roll_back(str(output), second["run_id"])

    corpus_of(tmp_path / "corpus", {"f": rows("f", 2)})
    third = embed_corpus(config)
    assert third["deleted_snapshots"] == [first["run_id"]]
    assert tables_agree(output, OutputTable.DELTA)
    assert delta_rows(output) == folder_rows(output)
    table = DeltaTable(output / "data")
    assert table.version() == 4
    with pytest.raises(Exception, match=r"version|log segment"):
        DeltaTable(output / "data", version=2)
    with pytest.raises(UsageError, match=r"output\.table is not set"):
        embed_corpus(plain)
    shutil.rmtree(output / "data/_delta_log")
    assert embed_corpus(plain)["unchanged"]


def test_somebody_elses_version_stops_a_run_before_it_embeds(tmp_path: Path, small_model: Path) -> None:
    config = settings(tmp_path, small_model, output={"table": "delta"})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    DeltaTable(tmp_path / "out/data").delete("id = 'a-3'")
    _night_2(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"version 1 of the table .* was written by another program"):
        embed_corpus(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kept_column_without_a_type_is_refused_before_anything_is_written(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "corpus").mkdir()
    cells = {"id": ["a"], "text": ["b"], "size": pa.array([1], pa.uint32())}
    pq.write_table(pa.table(cells), tmp_path / "corpus/a.parquet")
    config = settings(tmp_path, small_model, corpus={"keep": ["size"]}, output={"table": "delta"})
    with pytest.raises(UsageError, match="delta has no type for column size"):
        embed_corpus(config)
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize("vector", ["float16", "binary"])
def test_vectors_without_a_type(tmp_path: Path, vector: str) -> None:
    with pytest.raises(UsageError, match=f"table=delta: has no type for {vector}"):
        settings(tmp_path, tmp_path, output={"table": "delta", "vector": vector})
    with pytest.raises(UsageError, match="table"):
        settings(tmp_path, tmp_path, output={"table": "orc"})


@pytest.mark.parametrize("kind", list(OutputTable))
def test_the_table_is_a_corpus_and_its_files_are_none(tmp_path: Path, small_model: Path, kind: OutputTable) -> None:
    """By corpus.table it is the published snapshot alone; so is the folder of a run; all files below data/ are refused."""
    published = tmp_path / "published"
    vectors = np.random.default_rng(5).standard_normal((20, 8)).astype(np.float32)
    keep = {"section": pa.array(["net", "a b%2F", None, "x" * 230] * 5)}
    publish_vectors(published, vectors, keep=keep, partition_by=["section"])
    register(published, kind)
    publish_vectors(published, -vectors, keep=keep, partition_by=["section"])
    register(published, kind)
    want = {str(at): section for at, section in enumerate(keep["section"].to_pylist())}
    read = {"id": "id", "text": "id", "keep": ["section"]}
    found = settings(tmp_path, small_model, corpus=read | {"uri": f"{published}/data", "table": kind.value})
    embed_corpus(found)
    table = rows_of(str(tmp_path / "out" / current(tmp_path / "out")["data_path"]))
    assert dict(zip(table["id"].to_pylist(), table["section"].to_pylist(), strict=True)) == want
    assert len(table) == 20

    again = {name: value for name, value in read.items() if name != "keep"}
    folder = settings(tmp_path / "f", small_model, corpus=again | {"uri": str(published / current(published)["data_path"])})
    embed_corpus(folder)
    by_folder = rows_of(str(tmp_path / "f/out" / current(tmp_path / "f/out")["data_path"]))
    assert sorted(by_folder["id"].to_pylist()) == sorted(want)
    for uri in (f"{published}/data", str(published)):
        with pytest.raises(UsageError, match=rf"table.*set corpus\.table: {kind}"):
            embed_corpus(settings(tmp_path / "g", small_model, corpus=again | {"uri": uri}))
    assert not list((tmp_path / "g").rglob("*.*"))


@pytest.mark.s3
@pytest.mark.parametrize("kind", list(OutputTable))
def test_on_s3(s3_bucket: str, small_model: Path, kind: OutputTable) -> None:
    """By the output's own client and its conditional put; the formats' libraries read with clients of their own."""
    root = f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}"
    config = settings(root, small_model, output={"table": kind.value, "keep_snapshots": 1})
    corpus_of(f"{root}/corpus", NIGHT_1)
    embed_corpus(config)
    corpus_of(f"{root}/corpus", {"b": rows("b", 24, changed=6)})
    second = embed_corpus(config)
    access = CorpusConfig(uri=[root])
    if kind is OutputTable.DELTA:
        table = DeltaTable(f"{root}/out/data", storage_options=object_store_options(access))
        assert table.version() == 1
        found = table.to_pyarrow_table()
    else:
        found = StaticTable.from_metadata(f"{root}/out/data", file_io_properties(access)).scan().to_arrow()
    folder = rows_of(f"{root}/out/data/{second['run_id']}")
    assert len(folder) == 84
    for name in folder.column_names:
        assert found.sort_by("id").column(name).to_pylist() == folder.column(name).to_pylist()

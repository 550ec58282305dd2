"""output.table over nights: the table has what CURRENT.json names, wherever a driver was killed."""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

import jobs.planning.choose_run
from jobs.commands.rollback import roll_back
from jobs.embed.job import embed_corpus
from jobs.state.records import new_run_id
from tests.jobs.nights import NIGHT_1, by_hand, corpus_of, rows, rows_of, settings
from tests.jobs.publish.tables.folders_and_tables import (
    current,
    delta_rows,
    folder_rows,
    polars_rows,
    table_rows,
    tables_agree,
)
from tests.jobs.snapshot_samples import Killed
from workers.config import CorpusConfig, OutputTable
from workers.errors import UsageError
from workers.reading.tables.credentials import file_io_properties, object_store_options
from workers.storage.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    days = itertools.count()
    by_hand(monkeypatch)
    monkeypatch.setattr(
        jobs.planning.choose_run, "new_run_id", lambda print_, now: new_run_id(print_, now + timedelta(days=next(days)))
    )


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


class _Mortal:
    """Changes of the table and of what publishes are counted from CURRENT.json on; the n-th dies before it takes effect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.left, self.begun = 0, 1 << 30, False
        for name in ("put", "put_if_absent", "delete", "delete_many", "prune"):
            monkeypatch.setattr(Store, name, self._wrapped(getattr(Store, name)))

    def arm(self, left: int) -> None:
        self.count, self.left, self.begun = 0, left, False

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(store: Store, what: Any, *data: Any) -> Any:
            if str(what).startswith("runs/lock/"):
                return real(store, what, *data)
            of_the_table = str(what).startswith(("data/_delta_log", "data/metadata"))
            self.begun = self.begun or what == "CURRENT.json"
            if not self.begun or not (of_the_table or what in ("CURRENT.json", "README.md")):
                return real(store, what, *data)
            self.count += 1
            dies = self.count > self.left
            if dies:
                raise Killed
            return real(store, what, *data)

        return change


@pytest.mark.parametrize("kind", list(OutputTable))
def test_killed_at_every_step_table_and_current_agree_after_the_next_start(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, kind: OutputTable
) -> None:
    output, kept = tmp_path / "out", tmp_path / "kept"
    config = settings(tmp_path, small_model, output={"keep_snapshots": 1, "table": kind.value})
    corpus_of(tmp_path / "corpus", NIGHT_1)
    embed_corpus(config)
    _night_2(tmp_path)
    shutil.copytree(output, kept)
    mortal = _Mortal(monkeypatch)
    mortal.arm(1 << 30)
    embed_corpus(config)
    steps = mortal.count
    disagreed = 0
    assert steps >= 6
    for step in range(steps):  # before each; what comes after the last one is the last moment of all
        shutil.rmtree(output)
        shutil.copytree(kept, output)
        mortal.arm(step)
        with pytest.raises(Killed):
            embed_corpus(config)
        assert len(table_rows(output, kind)) in (80, 67), "the table is one of the two snapshots at any time"
        disagreed += not tables_agree(output, kind)
        mortal.arm(1 << 30)
        embed_corpus(config)
        assert tables_agree(output, kind), step
        assert table_rows(output, kind) == folder_rows(output), step
        if kind is OutputTable.DELTA:
            assert DeltaTable(output / "data").version() == 1, "committed once"
    assert disagreed >= 1, "a moment lies between the two"


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
    import pyarrow as pa
    import pyarrow.parquet as pq

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

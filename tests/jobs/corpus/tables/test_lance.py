"""corpus.table: lance, against Lance's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.corpus.discovery import discover
from tests.jobs.corpus.tables.table_rows import read_rows, same, settings
from workers.errors import UsageError

lance = pytest.importorskip("lance")


def documents(begin: int, end: int, **more: list[Any]) -> pa.Table:
    rows = range(begin, end)
    return pa.table({"id": list(rows), "text": [f"text {row} of the table" for row in rows], **more})


def test_the_rows_are_those_of_the_library(tmp_path: Path) -> None:
    """Fragments of several slices; rows deleted at both ends of slices and in between, updated, a fragment emptied."""
    where = tmp_path / "t.lance"
    lance.write_dataset(documents(0, 20_000, tags=[["a", None]] * 20_000), where, max_rows_per_file=12_000)
    lance.write_dataset(documents(20_000, 20_100, tags=[["b"]] * 100), where, mode="append")
    table = lance.dataset(where)
    table.delete("id % 3 = 0 and id < 9000 or id >= 20000 or id in (8191, 8192, 11999)")
    lance.dataset(where).update({"text": "'another text'"}, where="id = 12001")
    ours, corpus = read_rows(settings(where, "lance", keep=["tags"]))
    same(ours, lance.dataset(where).to_table())
    assert ours.num_rows == lance.dataset(where).count_rows()
    assert corpus.read_plan.table is not None
    assert corpus.read_plan.table.version == str(lance.dataset(where).version)


def test_the_version_that_is_named_is_read_by_number_and_tag(tmp_path: Path) -> None:
    where = tmp_path / "t.lance"
    lance.write_dataset(documents(0, 10), where)
    lance.write_dataset(documents(10, 30), where, mode="append")
    table = lance.dataset(where)
    table.tags.create("night-1", 1)
    table.alter_columns({"path": "text", "name": "body"})
    for version, text, rows in ((1, "text", 10), ("night-1", "text", 10), (2, "text", 30), (None, "body", 30)):
        ours, _ = read_rows(settings(where, "lance", table_version=version, text=text))
        assert ours.column("id").to_pylist() == list(range(rows)), version


def test_a_fragment_is_the_same_while_its_data_files_are(tmp_path: Path) -> None:
    where = tmp_path / "t.lance"
    lance.write_dataset(documents(0, 10), where)
    before = discover(settings(where, "lance"))
    lance.write_dataset(documents(10, 12), where, mode="append")
    lance.dataset(where).delete("id = 3")
    after = discover(settings(where, "lance"))
    assert [source.info for source in after.objects][:1] == [source.info for source in before.objects]
    assert [bool(source.deleted) for source in after.objects] == [True, False]
    assert before.source_fingerprint != after.source_fingerprint
    lance.dataset(where).add_columns({"upper": "upper(text)"})
    later = discover(settings(where, "lance"))
    assert {source.info.etag for source in later.objects}.isdisjoint(source.info.etag for source in after.objects)


def test_ids_made_of_row_numbers_do_not_move_when_rows_before_them_are_deleted(tmp_path: Path) -> None:
    where = tmp_path / "t.lance"
    lance.write_dataset(documents(0, 10), where)
    lance.dataset(where).delete("id in (0, 4)")
    ours, _ = read_rows(settings(where, "lance", id=None))
    numbers = [int(row.rpartition("#")[2]) for row in ours.column("id").to_pylist()]
    assert numbers == [1, 2, 3, 5, 6, 7, 8, 9]
    assert ours.column("text").to_pylist() == [f"text {row} of the table" for row in numbers]


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "t.lance"
    lance.write_dataset(documents(0, 5), where)

    def refusal(**more: Any) -> str:
        with pytest.raises(UsageError) as caught:
            discover(settings(more.pop("uri", where), "lance", **more))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "corpus.table_version 7: the Lance table" in refusal(table_version=7)
    assert "has no such version or tag" in refusal(table_version="night-1")
    assert "has no column txt; did you mean text?" in refusal(text="txt")
    assert "cannot be opened as a Lance table" in refusal(uri=tmp_path / "nothing")
    lance.write_dataset(documents(0, 0), tmp_path / "empty.lance")
    assert "has no data files" in refusal(uri=tmp_path / "empty.lance")
    monkeypatch.setitem(sys.modules, "lance", None)
    assert "pip install 'reembed[lance]'" in refusal()

"""corpus.table: delta, against deltalake's own reader."""

from __future__ import annotations

import datetime
import decimal
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import discover
from tests.jobs.corpus.tables import delta_logs
from tests.jobs.corpus.tables.table_rows import read_rows, same, settings
from workers.errors import UsageError

deltalake = pytest.importorskip("deltalake")

DAYS = [datetime.date(2024, 2, 29), None, datetime.date(1969, 12, 31)]
LANGS = ["en", None, "a/b=ü% c", "", "it's"]


def documents(begin: int, end: int, **more: list[Any]) -> pa.Table:
    rows = range(begin, end)
    return pa.table({"id": list(rows), "text": [f"text {row} of the table" for row in rows], **more})


def partitioned(begin: int, end: int) -> pa.Table:
    rows = range(begin, end)
    return documents(
        begin,
        end,
        lang=[LANGS[row % 5] for row in rows],
        day=pa.array([DAYS[row % 3] for row in rows], pa.date32()),
        year=pa.array([2000 + row % 2 for row in rows], pa.int32()),
        score=[row / 3 for row in rows],
    )


def library(path: Path, version: int | None = None) -> pa.Table:
    """All rows by the library's own query engine, which honours deletion vectors."""
    builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(path, version=version))
    return pa.table(builder.execute("select * from t").read_all())


def test_the_rows_are_those_of_the_library_with_partitions_of_the_log(tmp_path: Path) -> None:
    """Values that no folder name spells as they are: null, empty, slashes, dates, numbers; rows deleted and updated."""
    where = tmp_path / "t"
    deltalake.write_deltalake(where, partitioned(0, 60), partition_by=["lang", "day", "year"])
    deltalake.write_deltalake(where, partitioned(60, 90), mode="append")
    table = deltalake.DeltaTable(where)
    table.delete("id % 7 = 0")
    table.update(predicate="id = 5", updates={"text": "'another text'"})
    ours, corpus = read_rows(settings(where, "delta", keep=["lang", "day", "year", "score"]), ["lang"])
    reference = deltalake.DeltaTable(where).to_pyarrow_table()
    assert reference.num_rows == 90 - 13
    same(ours, reference)
    assert corpus.read_plan.table is not None
    assert corpus.read_plan.table.version == "3"
    assert all(not source.deleted for source in corpus.objects)


def test_where_chooses_files_by_the_tables_partitions(tmp_path: Path) -> None:
    """By columns that are not kept, in the table's types; a condition on another column is refused."""
    where = tmp_path / "t"
    deltalake.write_deltalake(where, partitioned(0, 60), partition_by=["lang", "day", "year"])
    condition = "year >= 2001 and (day < '2000-01-01' or lang is null)"
    ours, corpus = read_rows(settings(where, "delta", keep=["score"], where=condition))
    reference = deltalake.DeltaTable(where).to_pyarrow_table()  # its query engine takes an empty value for no null
    early = pc.less(reference["day"], pa.scalar(datetime.date(2000, 1, 1)))
    same(
        ours,
        reference.filter(pc.and_(pc.equal(reference["year"], 2001), pc.or_kleene(early, pc.is_null(reference["lang"])))),
    )
    assert len(corpus.objects) < 30
    with pytest.raises(UsageError, match="the corpus is not divided by score, but by day, lang, year"):
        discover(settings(where, "delta", where="score > 1"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.timestamp("us", "UTC"), [datetime.datetime(2024, 1, 2, 3, 4, 5, 678, datetime.UTC), None]),
        (pa.timestamp("us"), [datetime.datetime(2024, 1, 2, 3, 4, 5, 678), None]),
        (pa.bool_(), [True, False]),
        (pa.decimal128(9, 2), [decimal.Decimal("12.30"), decimal.Decimal("0.01")]),
        (pa.float64(), [0.1, -1.5]),
        (pa.int64(), [-(2**63), 2**63 - 1]),
    ],
    ids=str,
)
def test_a_partition_has_the_type_of_the_table(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    rows = documents(0, 6, part=pa.array([values[row % 2] for row in range(6)], kind))
    deltalake.write_deltalake(tmp_path / "t", rows, partition_by=["part"])
    ours, _ = read_rows(settings(tmp_path / "t", "delta", keep=["part"]))
    same(ours, deltalake.DeltaTable(tmp_path / "t").to_pyarrow_table())
    assert ours.schema.field("part").type == kind


def test_the_version_that_is_named_is_read_and_the_newest_otherwise(tmp_path: Path) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 10))
    deltalake.write_deltalake(where, documents(10, 30), mode="append")
    deltalake.write_deltalake(where, documents(30, 33), mode="overwrite")
    for version, rows in ((0, range(10)), (1, range(30)), (None, range(30, 33)), ("1", range(30))):
        ours, corpus = read_rows(settings(where, "delta", table_version=version))
        assert ours.column("id").to_pylist() == list(rows)
        assert corpus.read_plan.table is not None
        assert corpus.read_plan.table.version == str(2 if version is None else version)


def test_deleted_rows_are_no_rows(tmp_path: Path) -> None:
    """Deletion vectors in the log and in files, one after another, across row groups; a file of which nothing is left."""
    where = tmp_path / "t"
    properties = deltalake.WriterProperties(max_row_group_size=50)
    for begin in range(0, 400, 100):
        deltalake.write_deltalake(where, documents(begin, begin + 100), mode="append", writer_properties=properties)
    by_first = {}
    for path in delta_logs.live_paths(where):
        first = pq.read_table(where / path).column("id")[0].as_py()
        by_first[first] = path
    delta_logs.commit(where, delta_logs.protocol("deletionVectors"))
    delta_logs.commit(where, *delta_logs.replaced(where, by_first[0], delta_logs.inline([0, 49, 50, 99])))
    delta_logs.commit(where, *delta_logs.replaced(where, by_first[100], delta_logs.stored(where, range(3, 70))))
    version = delta_logs.commit(where, *delta_logs.replaced(where, by_first[200], delta_logs.inline(range(100))))
    delta_logs.commit(where, *delta_logs.replaced(where, by_first[0], delta_logs.stored(where, [0, 1, 49, 50, 99])))
    gone = {0, 1, 49, 50, 99, *range(103, 170), *range(200, 300)}
    ours, corpus = read_rows(settings(where, "delta"))
    assert ours.column("id").to_pylist() == [row for row in range(400) if row not in gone]
    assert corpus.rows == 400 - len(gone)
    same(ours, library(where))
    then, _ = read_rows(settings(where, "delta", table_version=version))
    same(then, library(where, version))
    assert then.num_rows == ours.num_rows + 1


def test_ids_made_of_row_numbers_do_not_move_when_rows_before_them_are_deleted(tmp_path: Path) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 10))
    before, _ = read_rows(settings(where, "delta", id=None))
    delta_logs.commit(where, delta_logs.protocol("deletionVectors"))
    (path,) = delta_logs.live_paths(where)
    delta_logs.commit(where, *delta_logs.replaced(where, path, delta_logs.inline([0, 4])))
    after, _ = read_rows(settings(where, "delta", id=None))
    assert [row for row in before.to_pylist() if not row["id"].endswith(("#0", "#4"))] == after.to_pylist()


@pytest.mark.parametrize("mode", ["name", "id"])
def test_columns_have_the_tables_names(tmp_path: Path, mode: str) -> None:
    """A renamed column, and one whose name belonged to another before."""
    where = tmp_path / "t"
    names = {"id": "col-1", "text": "lang", "lang": "text"}
    rows = [
        pa.table({"id": [f"{n}-{row}" for row in range(4)], "text": [f"text {row}" for row in range(4)], "lang": ["en"] * 4})
        for n in range(2)
    ]
    delta_logs.mapped(where, names, rows, mode)
    ours, corpus = read_rows(settings(where, "delta", keep=["lang"]))
    assert ours.to_pylist() == pa.concat_tables(rows).sort_by("id").select(ours.column_names).to_pylist()
    same(ours, library(where))
    renamed = {"id": "col-1", "body": "lang", "lang": "text"}
    delta_logs.commit(where, delta_logs.metadata(renamed, mode))
    again, later = read_rows(settings(where, "delta", keep=["lang"], text="body"))
    assert again.to_pylist() == ours.to_pylist()
    assert later.source_fingerprint != corpus.source_fingerprint


def test_kept_structs_of_mapped_tables_are_refused(tmp_path: Path) -> None:
    where = tmp_path / "t"
    delta_logs.mapped(where, {"id": "c1", "text": "c2"}, [pa.table({"id": ["1"], "text": ["x"]})])
    metadata = delta_logs.metadata({"id": "c1", "text": "c2", "about": "c3"}, "name")
    inner = {"type": "struct", "fields": [{"name": "a", "type": "string", "nullable": True, "metadata": {
        "delta.columnMapping.id": 9, "delta.columnMapping.physicalName": "c9"}}]}  # fmt: skip
    schema = json.loads(metadata["metaData"]["schemaString"])
    schema["fields"][2]["type"] = inner
    metadata["metaData"]["schemaString"] = json.dumps(schema)
    delta_logs.commit(where, metadata)
    with pytest.raises(UsageError, match=r"corpus\.keep: about is struct<a: string>, whose fields have other names"):
        discover(settings(where, "delta", keep=["about"]))
    assert discover(settings(where, "delta")).rows == 1


def test_a_column_that_no_file_has_is_null_of_the_tables_type(tmp_path: Path) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 5))
    table = deltalake.DeltaTable(where)
    table.alter.add_columns([deltalake.Field("day", deltalake.schema.PrimitiveType("date"), nullable=True)])
    ours, corpus = read_rows(settings(where, "delta", keep=["day"]))
    assert ours.schema.field("day").type == pa.date32()
    assert ours.column("day").null_count == 5
    assert any("which the table has: null in every row" in warning for warning in corpus.warnings)
    deltalake.write_deltalake(where, documents(5, 8, day=pa.array([DAYS[0]] * 3, pa.date32())), mode="append")
    ours, _ = read_rows(settings(where, "delta", keep=["day"]))
    same(ours, deltalake.DeltaTable(where).to_pyarrow_table())


def test_a_commit_that_changes_no_row_makes_no_other_corpus(tmp_path: Path) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 5))
    before = discover(settings(where, "delta"))
    deltalake.DeltaTable(where).alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"})
    after = discover(settings(where, "delta"))
    assert before.read_plan.table is not None
    assert after.read_plan.table is not None
    assert (before.read_plan.table.version, after.read_plan.table.version) == ("0", "1")
    assert before.source_fingerprint == after.source_fingerprint
    deltalake.write_deltalake(where, documents(5, 6), mode="append")
    assert discover(settings(where, "delta")).source_fingerprint != before.source_fingerprint


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 5))

    def refusal(**more: Any) -> str:
        with pytest.raises(UsageError) as caught:
            discover(settings(more.pop("uri", where), "delta", **more), more.pop("partition_by", ()))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "corpus.table_version 7: the Delta table" in refusal(table_version=7)
    assert "has no such version" in refusal(table_version=7)
    assert "version is a number" in refusal(table_version="main")
    assert "corpus.text: " in refusal(text="txt")
    assert "has no column txt; did you mean text?" in refusal(text="txt")
    assert "corpus.keep: " in refusal(keep=["lang"])
    assert "its columns: id, text" in refusal(keep=["lang"])
    assert "cannot be opened as a Delta table" in refusal(uri=tmp_path / "nothing")
    empty = tmp_path / "empty"
    deltalake.DeltaTable.create(empty, deltalake.Schema.from_arrow(documents(0, 1).schema))
    assert "at version 0 has no data files" in refusal(uri=empty)
    delta_logs.commit(where, delta_logs.protocol("typeWidening"))
    assert "typeWidening" in refusal()
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert "pip install 'reembed[delta]'" in refusal()


def test_a_vacuumed_file_is_named(tmp_path: Path) -> None:
    where = tmp_path / "t"
    deltalake.write_deltalake(where, documents(0, 5))
    deltalake.write_deltalake(where, documents(5, 9), mode="overwrite")
    (old,) = {path.name for path in where.glob("*.parquet")} - set(delta_logs.live_paths(where))
    (where / old).unlink()
    with pytest.raises(UsageError, match=rf"at version 0 names .*{old}, which is gone \(vacuumed, or expired\)"):
        discover(settings(where, "delta", table_version=0))
    assert discover(settings(where, "delta")).rows == 4


def test_a_table_copied_elsewhere_is_the_same_table(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "t", partitioned(0, 20), partition_by=["lang"])
    shutil.copytree(tmp_path / "t", tmp_path / "a b ü")
    ours, _ = read_rows(settings(tmp_path / "a b ü", "delta", keep=["lang"]))
    same(ours, deltalake.DeltaTable(tmp_path / "t").to_pyarrow_table())

"""corpus.table: iceberg, against pyiceberg's own reader."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus.discovery import discover
from tests.jobs.corpus.tables import iceberg_tables
from tests.jobs.corpus.tables.table_rows import read_rows, same, settings
from workers.errors import UsageError

pytest.importorskip("pyiceberg")
pytest.importorskip("sqlalchemy")

DAYS = [datetime.date(2024, 2, 29), datetime.date(1969, 12, 31), None]


def documents(begin: int, end: int, **more: list[Any]) -> pa.Table:
    rows = range(begin, end)
    return pa.table({"id": list(rows), "text": [f"text {row} of the table" for row in rows], **more})


def newest(table: Any) -> str:
    return str(table.metadata_location)


def test_the_rows_are_those_of_the_library(tmp_path: Path) -> None:
    """By the catalogue, by the metadata file; partitioned by values as they are; rows deleted and added by the library."""
    catalog = iceberg_tables.catalog(tmp_path)
    rows = documents(0, 40, lang=["en", "de", None, "a/b=ü c"] * 10, day=pa.array([DAYS[row % 3] for row in range(40)]))
    table = catalog.create_table("docs.pages", rows.schema)
    with table.update_spec() as update:
        update.add_identity("lang")
        update.add_identity("day")
    table.append(rows)
    table.append(documents(40, 50, lang=["fr"] * 10, day=pa.array([None] * 10, pa.date32())))
    table.delete("id < 7")
    by_name = settings("docs.pages", "iceberg", keep=["lang", "day"], table_options=iceberg_tables.options(tmp_path))
    ours, corpus = read_rows(by_name, ["lang"])
    same(ours, table.scan().to_arrow())
    assert ours.num_rows == 43
    assert corpus.read_plan.table is not None
    assert corpus.read_plan.table.version == str(table.current_snapshot().snapshot_id)
    again, _ = read_rows(settings(newest(table), "iceberg", keep=["lang", "day"]))
    assert again.equals(ours)


def test_the_snapshot_that_is_named_is_read_by_id_branch_and_tag(tmp_path: Path) -> None:
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)
    table.append(documents(0, 10))
    first = table.current_snapshot().snapshot_id
    table.manage_snapshots().create_tag(first, "night-1").commit()
    table.append(documents(10, 30))
    table.manage_snapshots().create_branch(first, "audit").commit()
    with table.update_schema() as update:
        update.rename_column("text", "body")
    table.refresh()
    for version, text, rows in ((first, "text", 10), ("night-1", "text", 10), ("audit", "body", 10), (None, "body", 30)):
        ours, _ = read_rows(settings(newest(table), "iceberg", table_version=version, text=text))
        assert ours.column("id").to_pylist() == list(range(rows)), version


def test_columns_are_told_by_their_field_ids(tmp_path: Path) -> None:
    """Renamed; dropped, and another one added with its name; wider types; a column that older files lack."""
    from pyiceberg.types import LongType, StringType

    table = iceberg_tables.catalog(tmp_path).create_table(
        "docs.pages", documents(0, 1, year=pa.array([1], pa.int32()), note=["x"]).schema
    )
    table.append(documents(0, 5, year=pa.array(range(5), pa.int32()), note=["old"] * 5))
    with table.update_schema() as update:
        update.rename_column("text", "body")
        update.delete_column("note")
    with table.update_schema() as update:
        update.add_column("note", StringType())
        update.add_column("text", StringType())
        update.update_column("year", LongType())
    before, _ = read_rows(settings(newest(table), "iceberg", text="body", keep=["note", "year"]))
    same(before.drop_columns(["text"]), table.scan().to_arrow())
    assert before.column("note").null_count == 5
    table.append(pa.table({"id": [5], "body": ["a body"], "note": ["new"], "text": ["no document"], "year": [2**40]}))
    ours, _ = read_rows(settings(newest(table), "iceberg", text="body", keep=["note", "year"]))
    theirs = table.scan().to_arrow()
    assert ours.column("text").to_pylist() == theirs.sort_by("id").column("body").to_pylist()
    same(ours.drop_columns(["text"]), theirs)
    assert ours.schema.field("year").type == pa.int64()


def test_deleted_rows_are_no_rows(tmp_path: Path) -> None:
    """Positional deletes: of several files in one, several of one file, and none of files that came later."""
    table = iceberg_tables.catalog(tmp_path).create_table(
        "docs.pages", documents(0, 1).schema, properties={"format-version": "2", "write.parquet.row-group-limit": "50"}
    )
    for begin in (0, 100, 200):
        table.append(documents(begin, begin + 100))
    one, two, three = iceberg_tables.data_files(table)
    rows = [(one, 0), (one, 49), (one, 50), *((two, row) for row in range(100))]
    iceberg_tables.add_deletes(table, iceberg_tables.positional(table, rows))
    table.refresh()
    iceberg_tables.add_deletes(table, iceberg_tables.positional(table, [(one, 99), (three, 7), (one, 0)]))
    table.refresh()
    table.append(documents(300, 310))
    ours, corpus = read_rows(settings(newest(table), "iceberg"))
    gone = {0, 49, 50, 99, 207, *range(100, 200)}
    assert ours.column("id").to_pylist() == [row for row in range(310) if row not in gone]
    assert corpus.rows == 310 - len(gone)
    same(ours, table.scan().to_arrow())


def test_deletion_vectors_are_honoured(tmp_path: Path) -> None:
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)
    for begin in (0, 100, 200):
        table.append(documents(begin, begin + 100))
    one, two, _ = iceberg_tables.data_files(table)
    iceberg_tables.add_deletes(table, iceberg_tables.vectors(table, {one: [0, 99], two: range(10, 100)}))
    table.refresh()
    ours, _ = read_rows(settings(newest(table), "iceberg"))
    gone = {0, 99, *range(110, 200)}
    assert ours.column("id").to_pylist() == [row for row in range(300) if row not in gone]
    same(ours, table.scan().to_arrow())


def test_fields_inside_a_kept_column_are_told_by_their_ids_too(tmp_path: Path) -> None:
    """A struct is read as it is; once a field of it is renamed, older files drift and say why."""
    structs = [{"a": row, "b": [{"c": "x"}]} for row in range(4)]
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 4, about=structs).schema)
    table.append(documents(0, 4, about=structs))
    ours, _ = read_rows(settings(newest(table), "iceberg", keep=["about"]))
    assert ours.column("about").to_pylist() == structs
    with table.update_schema() as update:
        update.rename_column("about.a", "z")
    table.refresh()
    corpus = discover(settings(newest(table), "iceberg", keep=["about"]))
    assert "column 'about' has other fields inside it than in the table now" in corpus.warnings[0]
    assert corpus.objects[0].problem is not None


def test_a_folder_is_read_by_its_version_hint(tmp_path: Path) -> None:
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)
    table.append(documents(0, 3))
    folder = Path(table.location().removeprefix("file://"))
    with pytest.raises(UsageError, match="cannot be opened as an Iceberg table"):
        discover(settings(folder, "iceberg"))
    (folder / "metadata/version-hint.text").write_text(newest(table).rpartition("/")[2])
    ours, _ = read_rows(settings(folder, "iceberg"))
    same(ours, table.scan().to_arrow())


def test_a_migrated_file_is_read_by_the_name_mapping_and_the_partition(tmp_path: Path) -> None:
    """add_files registers Parquet files that have no field ids; those of a Hive table lack the partition's column."""
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)
    path = tmp_path / "elsewhere/part.parquet"
    path.parent.mkdir()
    pq.write_table(documents(0, 9), path)
    table.add_files([f"file://{path}"])
    with table.update_schema() as update:
        update.rename_column("text", "body")
    table.refresh()
    ours, _ = read_rows(settings(newest(table), "iceberg", text="body"))
    assert ours.column("text").to_pylist() == table.scan().to_arrow().sort_by("id").column("body").to_pylist()


def test_files_without_ids_are_not_guessed_at(tmp_path: Path) -> None:
    """Without a name mapping nobody knows which of their columns is which."""
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)
    path = tmp_path / "part.parquet"
    pq.write_table(documents(0, 9), path)
    table.add_files([f"file://{path}"])
    with table.transaction() as transaction:
        transaction.remove_properties("schema.name-mapping.default")
    corpus = discover(settings(newest(table), "iceberg"))
    assert "have no field ids, and the table does not say what they are called" in corpus.warnings[0]
    assert corpus.objects[0].problem is not None


def partitioned(folder: Path, rows: pa.Table) -> Any:
    """A table of these rows, by year and day."""
    table = iceberg_tables.catalog(folder).create_table("docs.pages", rows.schema)
    with table.update_spec() as update:
        update.add_identity("year")
        update.add_identity("day")
    table.append(rows)
    return table


def test_a_partition_that_files_lack_is_its_value_in_the_records(tmp_path: Path) -> None:
    """As in files that come from Hive: the column is in none of them."""
    rows = documents(0, 12, year=pa.array([2000 + row % 3 for row in range(12)], pa.int32()), day=DAYS * 4)
    table = partitioned(tmp_path, rows)
    for file in iceberg_tables.data_files(table):
        path = file.removeprefix("file://")
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["year", "day"]), path)
    ours, _ = read_rows(settings(newest(table), "iceberg", keep=["year", "day"]), ["day"])
    assert ours.column("year").to_pylist() == rows.column("year").to_pylist()
    same(ours, rows)


def test_where_chooses_files_by_identity_partitions(tmp_path: Path) -> None:
    """In the table's types."""
    rows = documents(0, 30, year=pa.array([2000 + row % 3 for row in range(30)], pa.int32()), day=DAYS * 10)
    table = partitioned(tmp_path, rows)
    ours, _ = read_rows(settings(newest(table), "iceberg", keep=["year"], where="year > 2000 or day = '2024-02-29'"))
    same(ours, table.scan(row_filter="year > 2000 or day = '2024-02-29'").to_arrow())
    nulls, _ = read_rows(settings(newest(table), "iceberg", where="day is null"))
    same(nulls, table.scan(row_filter="day is null").to_arrow())
    with pytest.raises(UsageError, match="not divided by id, but by day, year"):
        discover(settings(newest(table), "iceberg", where="id = 1"))


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = iceberg_tables.catalog(tmp_path).create_table("docs.pages", documents(0, 1).schema)

    def refusal(**more: Any) -> str:
        with pytest.raises(UsageError) as caught:
            discover(settings(more.pop("uri", newest(table)), "iceberg", **more))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no snapshot, so no rows" in refusal()
    table.append(documents(0, 5))
    assert "has no such snapshot, branch or tag" in refusal(table_version=7)
    assert "has no such snapshot, branch or tag" in refusal(table_version="night-1")
    assert "has no column txt; did you mean text?" in refusal(text="txt")
    assert "cannot be opened as an Iceberg table" in refusal(uri=tmp_path / "nothing/x.metadata.json")
    assert "cannot be opened as an Iceberg table" in refusal(uri="docs.none", table_options=iceberg_tables.options(tmp_path))
    defaults = Path(newest(table).removeprefix("file://"))
    changed = json.loads(defaults.read_text())
    changed["schemas"][0]["fields"][1]["initial-default"] = "none"
    (tmp_path / "default.metadata.json").write_text(json.dumps(changed | {"format-version": 3, "next-row-id": 0}))
    assert "gives column text a default in older files" in refusal(uri=tmp_path / "default.metadata.json")
    values = pa.table([pa.array([3])], schema=pa.schema([pa.field("id", pa.int64(), metadata={"PARQUET:field_id": "1"})]))
    iceberg_tables.add_deletes(table, iceberg_tables.equality(table, values, [1]))
    table.refresh()
    assert "has equality deletes, which are not read" in refusal()
    monkeypatch.setitem(sys.modules, "pyiceberg.table", None)
    assert "pip install 'reembed[iceberg]'" in refusal()

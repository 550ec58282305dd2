"""Names of parts, and reading them: against pyarrow's own reader, with every row group, order of columns and kind of damage.

How parts are written, and that other readers understand them, is in test_writer.py and test_output_format_doc.py.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.output_samples import rows, schema
from workers.errors import ObjectError, UsageError
from workers.storage.store import Store
from workers.table.part_file import (
    PartDamaged,
    PartName,
    open_part,
    part_in_memory,
    path_in_run,
    read_footer,
    write_part,
)
from workers.table.small_table import decode_table, encode_table

PRODUCT = Path(__file__).parents[3]
RUN = "20261120T100312Z-1a2b3c4d"
GROUPS = (70, 1, 29)


@pytest.fixture
def part(tmp_path: Path) -> tuple[Store, pa.Table]:
    """A part of three row groups at data/part.parquet, and its rows."""
    shape = schema({"note": pa.string(), "a.b": pa.int64()})
    table = rows(shape, 100, note=[f"note {n}" for n in range(100)], **{"a.b": list(range(100))})
    starts = (0, 70, 71)
    groups = [table.slice(start, count).select(shape.part.names) for start, count in zip(starts, GROUPS, strict=True)]
    (tmp_path / "data").mkdir()
    write_part(tmp_path / "data" / "part.parquet", groups, shape, lambda: {"reembed.run_id": RUN, "reembed.shard": "3"})
    return Store(str(tmp_path), {}), table


@pytest.mark.parametrize(
    ("shard", "piece", "name"),
    [
        (0, None, "part-0000000.parquet"),
        (7, 0, "part-0000007-0.parquet"),
        (7, 12, "part-0000007-12.parquet"),
        (12_345_678, None, "part-12345678.parquet"),
    ],
)
def test_names_are_built_and_parsed(shard: int, piece: int | None, name: str) -> None:
    assert str(PartName(shard, piece)) == name
    assert PartName.parse(name) == PartName.parse(f"data/{RUN}/lang=de/{name}") == PartName(shard, piece)
    assert PartName(shard, piece).path(RUN) == f"data/{RUN}/{name}"
    assert PartName(shard, piece).path(RUN, "lang=a%2Fb/kind=x") == f"data/{RUN}/lang=a%2Fb/kind=x/{name}"


@pytest.mark.parametrize(
    "name",
    ["part-1.parquet", "part-0000001.parquet.tmp", "part-0000001-.parquet", "part-0000001-1-2.parquet", "_SUCCESS", "",
     "shard-0000001.parquet", "part-000000a.parquet", "xpart-0000001.parquet", "part-0000001.lance"],
)  # fmt: skip
def test_other_names_are_no_parts(name: str) -> None:
    assert PartName.parse(f"data/{RUN}/{name}") is None


@pytest.mark.parametrize(
    ("path", "carried"),
    [
        ("data/old/part-0000003.parquet", "data/new/part-0000041.parquet"),
        ("data/old/lang=de/a=b/part-0000003-2.parquet", "data/new/lang=de/a=b/part-0000041-2.parquet"),
        ("data/old/lang=old/part-0000003.parquet", "data/new/lang=old/part-0000041.parquet"),
        ("data/old/part-0000004.parquet", None),  # another shard's
        ("data/older/part-0000003.parquet", None),  # another run's
        ("data/part-0000003.parquet", None),
        ("runs/old/quarantine/part-0000003.parquet", None),
        ("data/old/part-0000003.json", None),
    ],
)
def test_the_path_in_another_run(path: str, carried: str | None) -> None:
    assert path_in_run(path, "old", 3, "new", 41) == carried


def test_a_part_says_what_it_is(part: tuple[Store, pa.Table]) -> None:
    store, table = part
    data = store.read("data/part.parquet")
    with open_part(store, "data/part.parquet") as reader:
        for opened in (reader, part_in_memory(data, "x")):
            assert opened.footer == read_footer(data) == {"reembed.run_id": RUN, "reembed.shard": "3"}
            assert (opened.rows, opened.row_groups) == (100, GROUPS)
            assert opened.schema.names == table.column_names
            metadata = pq.read_metadata(pa.BufferReader(data))
            sizes = [metadata.row_group(n).total_byte_size // metadata.row_group(n).num_rows for n in range(3)]
            assert opened.row_bytes() == max(sizes)
            assert opened.row_bytes(["embedding"]) < opened.row_bytes(table.column_names) == opened.row_bytes()
            assert opened.row_bytes([]) == opened.row_bytes(["no such column"]) == 0


@pytest.mark.parametrize("count", [1, 7, 70, 1000])
@pytest.mark.parametrize("buffer_bytes", [0, 64])
@pytest.mark.parametrize("columns", [None, ["text_hash"], ["note", "id", "embedding"], ["a.b"]])
def test_batches_are_what_pyarrow_reads(
    part: tuple[Store, pa.Table], count: int, buffer_bytes: int, columns: list[str] | None
) -> None:
    store, _ = part
    path = "data/part.parquet"
    expected = pq.read_table(store.uri_of(path), columns=columns)
    expected = expected if columns is None else expected.select(columns)
    with open_part(store, path, buffer_bytes=buffer_bytes) as reader:
        batches = list(reader.batches(count, columns))
        last = list(reader.batches(count, columns, groups=[2]))
    assert pa.Table.from_batches(batches).equals(expected)
    assert all(batch.num_rows <= count for batch in batches)
    assert pa.Table.from_batches(last).equals(expected.slice(71))


def test_one_row_of_any_row_group(part: tuple[Store, pa.Table]) -> None:
    store, table = part
    with open_part(store, "data/part.parquet") as reader:
        for number in (0, 69, 70, 71, 99):
            assert reader.row(number, ["id", "note"]) == table.slice(number, 1).select(["id", "note"]).to_pylist()[0]
        with pytest.raises(IndexError, match="no such row"):
            reader.row(100, ["id"])


def test_what_is_not_there(part: tuple[Store, pa.Table]) -> None:
    store, _ = part
    with pytest.raises(FileNotFoundError), open_part(store, "data/gone.parquet"):
        pass
    size = len(store.read("data/part.parquet"))
    with open_part(store, "data/part.parquet", size=size) as reader, pytest.raises(PartDamaged, match=r"damaged \("):
        list(reader.batches(10, ["id", "no such column"]))
    another = pytest.raises(FileNotFoundError, match=f"{size} bytes, not {size + 1}")
    with another, open_part(store, "data/part.parquet", size=size + 1):
        pass


def test_damage_is_named_and_is_the_parts_fault(part: tuple[Store, pa.Table]) -> None:
    store, _ = part
    path = "data/part.parquet"
    data = store.read(path)
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    leaf = next(group.column(n) for n in range(group.num_columns) if "embedding" in group.column(n).path_in_schema)
    page = leaf.data_page_offset + leaf.total_compressed_size // 2
    for damaged in (b"", data[:-100], b"no parquet at all", data[:page] + bytes([data[page] ^ 1]) + data[page + 1 :]):
        store.put(path, damaged)
        with pytest.raises(PartDamaged) as caught, open_part(store, path) as reader:
            list(reader.batches(10, ["embedding"]))
        assert isinstance(caught.value, ObjectError)
        assert str(caught.value) == f"{store.uri_of(path)}: damaged ({caught.value.detail})"
        assert caught.value.detail
    assert read_footer(b"no parquet at all") == {}
    with pytest.raises(PartDamaged):
        part_in_memory(b"", "x")


def test_a_small_table_comes_back_or_is_refused() -> None:
    table = pa.table({"a": list(range(1000))}).replace_schema_metadata({b"made for": b"x"})
    data = encode_table(table)
    assert decode_table(data).equals(table, check_metadata=True)
    assert pq.read_table(pa.BufferReader(data)).equals(table), "any reader can read it"
    assert pq.read_metadata(pa.BufferReader(data)).row_group(0).column(0).compression == "ZSTD"
    at = len(data) // 3
    with pytest.raises((pa.ArrowException, OSError)):
        decode_table(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_column_that_parquet_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="'kept' of type"):
        schema({"kept": pa.month_day_nano_interval()})


def test_only_part_file_knows_parquet() -> None:
    """Beside it: Parquet sources, Iceberg's deletes, Delta's checkpoints, statistics, the run's own small tables."""
    importers = set()
    for path in [*PRODUCT.glob("jobs/**/*.py"), *PRODUCT.glob("workers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith("pyarrow.parquet") for name in named):
                importers.add(str(path.relative_to(PRODUCT)))
    assert {name for name in importers if not name.startswith("workers/reading/")} <= {
        "jobs/corpus/tables/iceberg.py",
        "jobs/publish/tables/delta_log.py",
        "workers/table/column_statistics.py",
        "workers/table/part_file.py",
        "workers/table/small_table.py",
        "workers/table/quarantine_file.py",
    }


def test_index_files_are_named_for_shard_and_digest() -> None:
    for name, parsed in (
        ("part-0000003.0123456789abcdef.usearch", PartName(3, None, "0123456789abcdef.usearch")),
        ("part-0000003-12.0123456789abcdef.usearch", PartName(3, 12, "0123456789abcdef.usearch")),
    ):
        assert PartName.parse(f"data/{RUN}/{name}") == parsed
        assert str(parsed) == name
        moved = path_in_run(f"data/{RUN}/{name}", RUN, 3, "20270101T000000Z-00000000", 5)
        assert moved == f"data/20270101T000000Z-00000000/{name.replace('0000003', '0000005')}"
    for name in ("part-0000003.usearch", "part-0000003.0123456789ABCDEF.usearch", "part-0000003.01.usearch", "0.usearch"):
        assert PartName.parse(name) is None

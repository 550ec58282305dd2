"""Partition folders: what goes in comes out of every reader, and nothing leaves the prefix."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.errors import UsageError
from workers.table.partitions import HIVE_NULL, MAX_NAME_BYTES, partition_folder

LONG = "ü" * 300
TRAPS = [
    None, "", "plain", "a/b", "../../etc", "..", ".", "%2e%2e", "%", "a=b", "a\\b", "nul\x00", "ünï ✓ 漢字", "a+b c",
    HIVE_NULL + "x", "it's \"quoted\"", " lead", "trail ", "~", "a\nb", "*?[]{}", "#frag?query&x",
]  # fmt: skip


def read_arrow(root: Path) -> dict[int, str | None]:
    hive = ds.partitioning(pa.schema([("section", pa.string())]), flavor="hive")
    table = ds.dataset(root, partitioning=hive).to_table()
    return dict(zip(table["n"].to_pylist(), table["section"].to_pylist(), strict=True))


def read_arrow_inferred(root: Path) -> dict[int, str | None]:
    table = ds.dataset(root, partitioning="hive").to_table()
    return dict(zip(table["n"].to_pylist(), table["section"].to_pylist(), strict=True))


def read_duckdb(root: Path) -> dict[int, str | None]:
    relation = duckdb.read_parquet(f"{root}/**/*.parquet", hive_partitioning=True)
    return dict(relation.project("n, section").fetchall())


def read_polars(root: Path) -> dict[int, str | None]:
    return dict(pl.scan_parquet(root, hive_partitioning=True).select("n", "section").collect().iter_rows())


def lay_out(root: Path, values: list[str | None]) -> None:
    for number, value in enumerate(values):
        folder = root / partition_folder(["section"], [value])
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"n": [number]}), folder / f"part-{number}.parquet")


@pytest.mark.parametrize("read", [read_arrow, read_arrow_inferred, read_duckdb, read_polars])
def test_readers_get_back_every_value(read: Callable[[Path], dict[int, str | None]], tmp_path: Path) -> None:
    lay_out(tmp_path, TRAPS)
    assert read(tmp_path) == dict(enumerate(TRAPS))


@pytest.mark.parametrize("read", [read_arrow, read_duckdb, read_polars])
def test_the_text_of_hives_null_does_not_read_back_as_null(
    read: Callable[[Path], dict[int, str | None]], tmp_path: Path
) -> None:
    lay_out(tmp_path, [None, HIVE_NULL])
    back = read(tmp_path)
    assert back[0] is None
    assert back[1] is not None
    assert back[1].startswith(HIVE_NULL + "~")


@pytest.mark.parametrize("read", [read_arrow, read_duckdb, read_polars])
def test_a_value_too_long_for_a_file_name_keeps_its_head(
    read: Callable[[Path], dict[int, str | None]], tmp_path: Path
) -> None:
    lay_out(tmp_path, [LONG, LONG + "!"])
    back = read(tmp_path)
    assert back[0] != back[1]
    assert all(re.fullmatch(r"ü{30}~[0-9a-f]{16}", str(value)) for value in back.values())  # 30 * len("%C3%BC") + 17 <= 200


@given(st.text(st.characters(codec="utf-8"), max_size=400))
@example("x" * 200)
@example("x" * 201)
@example("../" * 100)
def test_any_text_is_one_safe_name_that_decodes(value: str) -> None:
    folder = partition_folder(["col"], [value])
    assert re.fullmatch(r"col=[A-Za-z0-9_.~%-]*", folder)
    assert folder not in ("col=.", "col=..")
    assert len(folder) <= 204
    decoded = unquote(folder.removeprefix("col="), errors="strict")  # an escape cut in half would raise
    head, tilde, digest = decoded.rpartition("~")
    assert decoded == value or (tilde and value.startswith(head) and re.fullmatch("[0-9a-f]{16}", digest))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300) | st.none(), min_size=2, max_size=8, unique=True))
def test_distinct_values_get_distinct_folders(values: list[str | None]) -> None:
    assert len({partition_folder(["c"], [value]) for value in values}) == len(values)


def test_several_columns_nest_and_names_are_escaped_too() -> None:
    assert partition_folder(["lang", "a/b=c"], ["de", None]) == f"lang=de/a%2Fb%3Dc={HIVE_NULL}"
    assert partition_folder([], []) == ""


def test_long_column_name_leaves_less_room_and_a_longer_one_is_refused() -> None:
    assert len(partition_folder(["c" * 150], [LONG])) <= MAX_NAME_BYTES
    with pytest.raises(UsageError, match="rename the column"):
        partition_folder(["c" * 200], ["x"])

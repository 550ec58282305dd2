"""Part files: every reader gets every row once, with its partition, whatever the value; temporaries always go.

Ray Data's turn is in test_output_format_doc.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.workers.output_samples import (
    DIM,
    INT8_SCALE,
    RUN,
    append,
    assignment,
    draft_for,
    rows,
    schema,
    write,
)
from workers.config import LongText, Pooling, VectorEncoding, VectorType
from workers.errors import TransientError
from workers.records.documents import QuarantinedRow, RowsDigest
from workers.storage.store import Store
from workers.table.part_file import vector_bytes
from workers.table.schema import OutputSchema
from workers.table.vectors import as_float32
from workers.writing.writer import ShardWriter

SECTION = {"section": pa.string()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"), {})


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def data_folder(store: Store) -> str:
    return f"{store.uri}/data/{RUN}"


def partitioned(store: Store, spool: Path) -> pa.Table:
    """Two windows of 40 rows over the sections a, b and null; returns the rows as they were handed in."""
    shape = schema(SECTION, ["section"])
    sections = [["a", "b", None][number % 3] for number in range(40)]
    windows = [rows(shape, 40, seed, start=40 * seed, section=sections) for seed in (0, 1)]
    write(store, shape, windows, spool)
    return pa.concat_tables(windows)


def test_parts_are_named_by_the_shard_and_hold_source_order(store: Store, spool: Path) -> None:
    source = partitioned(store, spool)
    assert list(store.list(f"data/{RUN}")) == [
        f"data/{RUN}/section={name}/part-0000003.parquet" for name in ("__HIVE_DEFAULT_PARTITION__", "a", "b")
    ]
    part = pq.ParquetFile(f"{data_folder(store)}/section=b/part-0000003.parquet")
    table = part.read()
    expected = source.filter(pa.compute.equal(source["section"], "b"))
    assert table.column_names == ["id", "embedding", "num_tokens", "truncated", "text_hash"]
    assert table.equals(expected.drop_columns(["section"]))
    footer = {key.decode(): value.decode() for key, value in part.metadata.metadata.items()}
    assert (footer["reembed.shard"], footer["reembed.epoch"], footer["reembed.run_id"]) == ("3", "1", RUN)
    assert json.loads(footer["reembed.partition_values"]) == {"section": "b"}
    digest = RowsDigest()
    for identity, text_hash in zip(table["id"].to_pylist(), table["text_hash"].to_pylist(), strict=True):
        digest.add(identity, text_hash, 0)
    assert footer["reembed.rows_digest"] == str(digest)


def test_pyarrow_pandas_duckdb_and_polars_read_each_row_once(store: Store, spool: Path) -> None:
    source = partitioned(store, spool)
    vectors = as_float32(source["embedding"], VectorType.FLOAT32)
    expected = dict(zip(source["id"].to_pylist(), source["section"].to_pylist(), strict=True))
    order = {name: number for number, name in enumerate(source["id"].to_pylist())}

    def check(ids: list[str], sections: list[str | None], embedding: np.ndarray) -> None:
        assert len(ids) == 80
        assert dict(zip(ids, sections, strict=True)) == expected
        np.testing.assert_array_equal(embedding, vectors[[order[name] for name in ids]])

    folder = data_folder(store)
    arrow = ds.dataset(folder, partitioning="hive").to_table()
    check(arrow["id"].to_pylist(), arrow["section"].to_pylist(), as_float32(arrow["embedding"], VectorType.FLOAT32))
    frame = arrow.to_pandas()
    assert frame["section"].isna().sum() == 26
    for section in "ab":
        frame = pd.read_parquet(folder, filters=[("section", "==", section)])
        assert {expected[name] for name in frame["id"]} == {section}
        np.testing.assert_array_equal(np.stack(frame["embedding"]), vectors[[order[name] for name in frame["id"]]])
    relation = duckdb.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)
    found = relation.project("id, section, embedding").fetchall()
    check([row[0] for row in found], [row[1] for row in found], np.array([row[2] for row in found], np.float32))
    lazy = pl.scan_parquet(folder, hive_partitioning=True).select("id", "section", "embedding").collect()
    assert lazy.schema["embedding"] == pl.Array(pl.Float32, DIM)
    check(lazy["id"].to_list(), lazy["section"].to_list(), lazy["embedding"].to_numpy())


@pytest.mark.parametrize("vector", list(VectorType))
def test_every_vector_type_reads_back_in_every_reader(vector: VectorType, store: Store, spool: Path) -> None:
    shape = schema(vector=vector, int8_scale=INT8_SCALE if vector is VectorType.INT8 else None)
    table = rows(shape, 50)
    receipt = write(store, shape, [table], spool)
    path = store.uri_of(receipt.files[0].path)
    expected = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(50, -1)
    assert pq.read_table(path, schema=shape.part).equals(table)
    assert pq.read_table(path).schema.field("embedding").type == shape.vector_type
    np.testing.assert_array_equal(np.stack(pd.read_parquet(path)["embedding"]), expected)
    np.testing.assert_array_equal(pl.read_parquet(path)["embedding"].to_numpy(), expected)
    np.testing.assert_array_equal(
        np.array([row[0] for row in duckdb.read_parquet(path).project("embedding").fetchall()]), expected
    )


@pytest.mark.parametrize("encoding", list(VectorEncoding))
def test_float32_parts_are_smaller_than_raw_vectors(encoding: VectorEncoding, store: Store, spool: Path) -> None:
    shape = schema(dim=256)
    receipt = write(store, shape, [rows(shape, 500)], spool, encoding=encoding)
    part = pq.ParquetFile(store.uri_of(receipt.files[0].path)).metadata.row_group(0)
    sizes = {part.column(index).path_in_schema: part.column(index) for index in range(part.num_columns)}
    vectors = sizes["embedding.list.element"]
    split = encoding is VectorEncoding.BYTE_STREAM_SPLIT
    assert set(vectors.encodings) - {"RLE"} == {"BYTE_STREAM_SPLIT" if split else "PLAIN"}
    assert vectors.total_compressed_size < (0.9 if split else 0.95) * 500 * 256 * 4
    assert vectors.statistics is None
    assert not any("DICTIONARY" in kind for name in ("id", "text_hash") for kind in sizes[name].encodings)


def test_pooling_tokens_and_chunks_read_back(store: Store, spool: Path) -> None:
    for shard, change in enumerate(({"pooling": Pooling.TOKENS}, {"long_text": LongText.CHUNKS})):
        shape = schema(**change)
        table = rows(shape, 30)
        receipt = write(store, shape, [table], spool, shard=shard)
        path = store.uri_of(receipt.files[0].path)
        assert pq.read_table(path, schema=shape.part).equals(table)
        ducks = [row[0] for row in duckdb.read_parquet(path).project("embedding").fetchall()]
        assert [np.array(cell, np.float32).tolist() for cell in ducks] == table["embedding"].to_pylist()
        assert pl.read_parquet(path)["embedding"].to_list() == table["embedding"].to_pylist()


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.TOKENS])
def test_parts_roll_at_the_same_rows_whatever_the_windows(pooling: Pooling, store: Store, spool: Path) -> None:
    shape = schema(pooling=pooling)
    limit = 30 * vector_bytes(shape)
    table = rows(shape, 100)
    whole = write(store, shape, [table], spool, part_bytes=limit)
    assert [file.path for file in whole.files] == [f"data/{RUN}/part-0000003-{n}.parquet" for n in range(len(whole.files))]
    assert len(whole.files) == 4 if pooling is Pooling.MEAN else len(whole.files) >= 10
    read = [pq.read_table(store.uri_of(file.path), schema=shape.part) for file in whole.files]
    assert pa.concat_tables(read).equals(table)
    cut = write(store, shape, [table.slice(0, 17), table.slice(17)], spool, shard=4, part_bytes=limit)
    assert [file.rows for file in cut.files] == [file.rows for file in whole.files]


def test_row_groups_are_sized_for_scanning(store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.table.part_file.ROW_GROUP_BYTES", 20 * DIM * 4)
    shape = schema()
    receipt = write(store, shape, [rows(shape, 50)], spool)
    metadata = pq.read_metadata(store.uri_of(receipt.files[0].path))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [20, 20, 10]


def test_traps_as_partition_values_stay_below_the_prefix(store: Store, spool: Path, tmp_path: Path) -> None:
    values = [None, "", "a/b", "../../x", "..", "%2e", "漢字 ✓", "v" * 300, "__HIVE_DEFAULT_PARTITION__", "a\x00b", "\\..\\"]
    shape = schema({"section": pa.string(), "year": pa.int32()}, ["section", "year"])
    table = rows(shape, 2 * len(values), section=values * 2, year=[2024] * len(values) + [None] * len(values))
    receipt = write(store, shape, [table], spool)
    assert len(receipt.files) == 2 * len(values)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "spool"}
    assert all(Path(store.uri_of(file.path)).resolve().is_relative_to(data_folder(store)) for file in receipt.files)
    hive = ds.partitioning(pa.schema([("section", pa.string()), ("year", pa.int32())]), flavor="hive")
    found = ds.dataset(data_folder(store), partitioning=hive).to_table()
    assert sorted(found["id"].to_pylist()) == sorted(table["id"].to_pylist())
    back = dict(
        zip(found["id"].to_pylist(), zip(found["section"].to_pylist(), found["year"].to_pylist(), strict=True), strict=True)
    )
    for number, (section, year) in enumerate(zip(values * 2, table["year"].to_pylist(), strict=True)):
        seen = back[f"doc-{number}"]
        assert seen[1] == year
        assert seen[0] == section or (section in ("v" * 300, "__HIVE_DEFAULT_PARTITION__") and "~" in seen[0])
    long = next(file.path for file in receipt.files if "vvv" in file.path and "2024" in file.path)
    footer = pq.read_metadata(store.uri_of(long)).metadata
    assert json.loads(footer[b"reembed.partition_values"]) == {"section": "v" * 300, "year": "2024"}


def test_typed_partition_columns_have_a_text_form(store: Store, spool: Path) -> None:
    keep = {"flag": pa.bool_(), "day": pa.date32(), "word": pa.dictionary(pa.int32(), pa.string())}
    shape = schema(keep, list(keep))
    day = np.datetime64("2024-01-31").astype(object)
    receipt = write(store, shape, [rows(shape, 2, flag=[True, None], day=[day, None], word=["x", None])], spool)
    assert receipt.files[0].path.startswith(f"data/{RUN}/flag=__HIVE_DEFAULT_PARTITION__/")
    assert receipt.files[1].path == f"data/{RUN}/flag=true/day=2024-01-31/word=x/part-0000003.parquet"


@pytest.mark.slow
def test_a_thousand_partitions_in_one_shard_are_quick(store: Store, spool: Path) -> None:
    shape = schema(SECTION, ["section"])
    windows = [rows(shape, 2000, seed, 2000 * seed, section=[f"s{n % 1000}" for n in range(2000)]) for seed in range(3)]
    started = time.monotonic()
    receipt = write(store, shape, windows, spool)
    assert time.monotonic() - started < 60  # 1.5 s on two idle cores; quadratic work over the spool would take minutes
    assert len(receipt.files) == 1000
    assert {file.rows for file in receipt.files} == {6}
    found = ds.dataset(data_folder(store), partitioning="hive").to_table(columns=["id"])
    assert len(set(found["id"].to_pylist())) == 6000 == found.num_rows


def test_quarantined_rows_are_a_file_of_their_own(store: Store, spool: Path) -> None:
    task = assignment(shard=5)
    writer = ShardWriter(store, task, schema(), spool)
    writer.quarantine([QuarantinedRow("s3://b/x.jsonl", 7, None, "text is null")])
    writer.quarantine([QuarantinedRow("s3://b/y\udcff.gz", None, None, "truncated gz", rows=None)])
    writer.quarantine([])
    receipt = writer.finish(draft_for(task, 0))
    assert receipt.files == ()
    assert receipt.quarantine is not None
    assert (receipt.quarantine.path, receipt.quarantine.rows) == (f"runs/{RUN}/quarantine/shard-0000005.parquet", 2)
    assert pq.read_table(store.uri_of(receipt.quarantine.path)).to_pylist() == [
        {"id": None, "object": "s3://b/x.jsonl", "row": 7, "rows": 1, "reason": "text is null", "shard": 5},
        {"id": None, "object": "s3://b/y?.gz", "row": None, "rows": None, "reason": "truncated gz", "shard": 5},
    ]
    assert store.list(f"data/{RUN}") == {}


def test_an_empty_shard_writes_no_parts(store: Store, spool: Path) -> None:
    shape = schema(SECTION, ["section"])
    receipt = write(store, shape, [rows(shape, 0, section=[])], spool)
    assert (receipt.files, receipt.quarantine) == ((), None)


def test_the_same_rows_make_the_same_bytes(tmp_path: Path, spool: Path) -> None:
    shape = schema(SECTION, ["section"])
    windows = [rows(shape, 60, section=["a", "b", None] * 20)]
    first, again = (write(Store(str(tmp_path / name), {}), shape, windows, spool) for name in ("one", "two"))
    assert first.files == again.files


def test_temporaries_go_on_success_abandon_and_failure(store: Store, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = schema()
    write(store, shape, [rows(shape, 5)], spool)
    assert list(spool.iterdir()) == []
    writer = ShardWriter(store, assignment(), shape, spool)
    append(writer, shape, rows(shape, 5))
    assert len(list(spool.iterdir())) == 1
    writer.abandon()
    writer.abandon()
    assert list(spool.iterdir()) == []

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.writing.writer.write_part", full)
    with pytest.raises(TransientError, match=r"spill folder .*No space left on device; free space"):
        write(store, shape, [rows(shape, 5)], spool, shard=8)
    assert list(spool.iterdir()) == []
    assert not any("0000008" in path for path in store.list(""))


def test_other_columns_than_the_schemas_are_refused(store: Store, spool: Path) -> None:
    shape: OutputSchema = schema()
    writer = ShardWriter(store, assignment(), shape, spool)
    with pytest.raises(ValueError, match="schema"):
        append(writer, shape, rows(shape, 2).drop_columns(["truncated"]))
    writer.abandon()

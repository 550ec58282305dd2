"""Parquet: types, damage, row groups, bounded batches, and who is blamed."""

from __future__ import annotations

import datetime
import decimal
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.corpus_files import bad_utf8, plan_of, put_parquet, read, slice_of
from workers.errors import ObjectError
from workers.reading.formats.parquet import _after
from workers.reading.reader import read_windows
from workers.records.shard import Shard
from workers.storage import stream as stream_module

TEXTS = ["plain", None, "", " \u2003", "emoji 🎉", "漢字", "שלום", "nul \x00", "plain", "y" * 5_000_000]
GOOD = [text for text in TEXTS if text and text.strip()]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)  # fmt: skip
def test_every_text_type(tmp_path: Path, kind: pa.DataType, stored: bool) -> None:
    plain = pa.array(TEXTS, pa.string())
    column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(kind)
    path = put_parquet(tmp_path / "a.parquet", {"id": range(10), "text": column}, store_schema=stored, row_group_size=4)
    found = read(path, plan_of({"text": pa.string()}, id="id", id_type=pa.int64()))
    assert found.texts == found.kept("text") == GOOD
    assert found.ids == [0, 4, 5, 6, 7, 8, 9]
    assert found.reasons == {1: "text is null", 2: "text is empty", 3: "text is empty"}
    assert [row.id for row in found.quarantined] == ["1", "2", "3"]
    assert [row["row"] for row in found.documents] == found.ids


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("dictionary", [True, False])
def test_invalid_utf8_is_found_row_by_row(tmp_path: Path, kind: pa.DataType, dictionary: bool) -> None:
    text = bad_utf8(b"good", b"ab\xff", None, b"fine \xc3\xa9", b"\xed\xa0\x80", kind=kind)
    table = pa.table({"text": text, "url": bad_utf8(b"u", b"u", b"u", b"\xfe", b"u"), "id": bad_utf8(*[b"a"] * 5)})
    path = put_parquet(tmp_path / "a.parquet", table, use_dictionary=dictionary)
    found = read(path, plan_of({"url": pa.string()}, id="id"))
    assert found.texts == ["good"]
    assert found.reasons == {
        1: "text is not valid UTF-8 (byte 2)",
        2: "text is null",
        3: "kept column url is not valid UTF-8",
        4: "text is not valid UTF-8 (byte 0)",
    }
    nested = pa.StructArray.from_arrays([bad_utf8(b"x", b"\xff")], ["s"])
    path = put_parquet(tmp_path / "b.parquet", {"text": ["a", "b"], "meta": nested, "id": bad_utf8(b"\xff", b"i")})
    found = read(path, plan_of({"meta": nested.type}, id="id"))
    assert found.reasons == {0: "id is not valid UTF-8 (byte 0)", 1: "kept column meta is not valid UTF-8"}


DAY = datetime.date(2024, 5, 1)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, 2**62]), ["1", str(2**62)]),
        (pa.array([1, 2**63], pa.uint64()), ["1", str(2**63)]),
        (pa.array([0.1, 1e20]), ["0.1", "1e+20"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array(["a", ""], pa.large_string()), ["a", ""]),
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([DAY, DAY]), ["2024-05-01"] * 2),
        (pa.array([decimal.Decimal("1.50")] * 2), ["1.50"] * 2),
        (pa.array([uuid.UUID(int=7).bytes] * 2, pa.uuid()), [str(uuid.UUID(int=7))] * 2),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_every_id_type(tmp_path: Path, ids: pa.Array, expected: list[str]) -> None:
    path = put_parquet(tmp_path / "a.parquet", {"id": ids, "text": ["a", "b"]})
    assert read(path, plan_of(id="id")).ids == expected


def test_ids_that_cannot_be(tmp_path: Path) -> None:
    path = put_parquet(tmp_path / "a.parquet", {"id": [1, None, 1], "text": ["a", "b", None]})
    found = read(path, plan_of(id="id"))
    assert (found.ids, found.reasons) == (["1"], {1: "id is null", 2: "text is null"})
    path = put_parquet(tmp_path / "b.parquet", {"id": [[1], [2]], "text": ["a", "b"]})
    assert set(read(path, plan_of(id="id")).reasons.values()) == {"id is not a scalar (list<element: int64>)"}
    path = put_parquet(tmp_path / "c.parquet", {"id": pa.array([2**63, 5], pa.uint64()), "text": ["a", "b"]})
    found = read(path, plan_of(id="id", id_type=pa.int64()))
    assert (found.ids, found.reasons) == ([5], {0: "id: a value of type uint64 does not fit int64"})
    for column, kind in (([DAY], r"date32\[day\]"), (["007"], "string"), ([True], "bool")):
        path = put_parquet(tmp_path / "d.parquet", {"id": column, "text": ["a"]})
        with pytest.raises(ObjectError, match=f"id column 'id': {kind} cannot become int64"):
            read(path, plan_of(id="id", id_type=pa.int64()))


def test_a_value_that_breaks_its_own_type_costs_its_row(tmp_path: Path) -> None:
    """As in DuckDB's negative-timetz.parquet and pandas_decimal.parquet; pyarrow reads it, unless asked to validate."""
    times = pa.array([1, -13899000], pa.int32()).view(pa.time32("ms"))
    path = put_parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "at": times})
    assert pq.read_table(path)["at"].to_pylist()[0] == datetime.time(0, 0, 0, 1000)
    found = read(path, plan_of(keep={"at": pa.time32("ms")}))
    assert found.texts == ["a"]
    assert (
        "kept column at holds a value that time32[ms] does not allow (time32[ms] -13899000 is not within" in found.reasons[1]
    )


def test_kept_columns(tmp_path: Path) -> None:
    meta = [{"a": 1, "tags": ["x", None]}, None, {"a": None, "tags": []}]
    keep = {
        "meta": pa.struct([("a", pa.int64()), ("tags", pa.list_(pa.string()))]),
        "cat": pa.string(), "n": pa.int64(), "when": pa.timestamp("us"), "gone": pa.list_(pa.int8()), "lang": pa.string(),
    }  # fmt: skip
    table = {
        "text": ["a", "b", "c"],
        "unused": [["big"] * 100] * 3,
        "meta": meta,
        "cat": pa.array(["p", "q", None]).dictionary_encode(),
        "n": pa.array([1, 2, None], pa.int8()),
        "when": pa.array([1, 2, 3], pa.timestamp("ms")),
    }
    piece = slice_of(put_parquet(tmp_path / "a.parquet", table), partitions=(("lang", "de"), ("n", "99")))
    found = read(piece, plan_of(keep))
    assert found.kept("meta") == meta
    assert found.kept("cat") == ["p", "q", None]
    assert found.kept("n") == [1, 2, None]
    assert found.kept("when")[0] == datetime.datetime(1970, 1, 1, 0, 0, 0, 1000)
    assert found.kept("gone") == [None] * 3
    assert found.kept("lang") == ["de"] * 3
    path = put_parquet(tmp_path / "b.parquet", {"text": ["a", "b"], "n": pa.array([7, 2**64 - 1], pa.uint64())})
    found = read(path, plan_of({"n": pa.int64()}))
    assert (found.kept("n"), found.reasons) == ([7], {1: "kept column n: a value of type uint64 does not fit int64"})


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ({"body": ["a"]}, {}, r"no column 'text' \(corpus.text\), only body"),
        ({"text": ["a"]}, {"id": "key"}, r"no column 'key' \(corpus.id\), only text"),
        ({"text": [1]}, {}, "text column 'text' is of type int64, not string; correct corpus.text"),
        ({"text": [["a"]]}, {}, "text column 'text' is of type list"),
        ({"text": ["a"], "k": [[1]]}, {}, "kept column 'k': list<element: int64> cannot become string"),
        ({"text": ["a"], "s": [{"a": 1, "b": 2}]}, {}, r"kept column 's': .* has fields that struct<a: int64> lacks \(b\)"),
        ({"text": ["a"], "s": [{"a": "1"}]}, {}, r"kept column 's': struct<a: string> cannot become struct<a: int64>"),
    ],
)
def test_columns_that_do_not_serve(tmp_path: Path, table: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    path = put_parquet(tmp_path / "a.parquet", table)
    with pytest.raises(ObjectError, match=message) as error:
        read(path, plan_of({"k": pa.string(), "s": pa.struct([("a", pa.int64())])}, **settings))
    assert error.value.object_uri == path.as_uri()


def test_joined_texts_and_dotted_names(tmp_path: Path) -> None:
    table = {"a.b": ["x", None, None], "a": [{"b": 1, "c": 2}] * 3, "text": ["t", "t", None]}
    path = put_parquet(tmp_path / "a.parquet", table)
    found = read(path, plan_of({"a": pa.struct([("b", pa.int64()), ("c", pa.int64())])}, text=["a.b", "text"]))
    assert found.texts == ["x\nt", "t"]
    assert found.kept("a") == [{"b": 1, "c": 2}] * 2
    assert found.reasons == {2: "text is null"}


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "PLAIN"])
def test_texts_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    texts = [f"text {number % 50} of {number}" for number in range(3000)]
    path = put_parquet(
        tmp_path / "a.parquet", {"id": range(3000), "text": texts}, use_dictionary=False, row_group_size=1000,
        column_encoding={"text": encoding, "id": "DELTA_BINARY_PACKED"},
    )  # fmt: skip
    found = read(path, plan_of(id="id"))
    assert found.texts == texts
    assert [int(identity) for identity in found.ids] == list(range(3000))
    assert read(slice_of(path, 1, 3), plan_of(id="id")).texts == texts[1000:]


def test_an_encoding_that_changes_midway_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """DuckDB's version 2: a dictionary as long as texts repeat, delta encoding where they do not."""
    path = tmp_path / "a.parquet"
    text = "CASE WHEN n < 4096 THEN 'text ' || n % 7 ELSE 'a text of its own ' || n * 7919 END"
    rows = f"SELECT {text} AS text FROM range(8192) r(n)"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.sql(f"COPY ({rows}) TO '{path}' (FORMAT parquet, PARQUET_VERSION V2, ROW_GROUP_SIZE 4096)")
    groups = pq.read_metadata(path)
    met = [groups.row_group(number).column(0).encodings for number in range(groups.num_row_groups)]
    assert ["DELTA_LENGTH_BYTE_ARRAY" in encodings for encodings in met] == [False, True], met
    expected = [f"text {n % 7}" if n < 4096 else f"a text of its own {n * 7919}" for n in range(8192)]
    assert read(path, plan_of()).texts == expected


def test_what_comes_after_so_many_rows() -> None:
    batches = [pa.RecordBatch.from_pydict({"n": list(range(start, start + 10))}) for start in (0, 10, 20)]
    for done in (0, 5, 10, 25, 30):
        left = [value for batch in _after(iter(batches), done) for value in batch.column(0).to_pylist()]
        assert left == list(range(done, 30))


def test_row_groups_tile_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"text": [f"row {n} " + "word " * (n % 50) for n in range(1000)], "wide": ["w" * 500] * 1000}
    path = put_parquet(tmp_path / "a.parquet", table, row_group_size=90)
    whole = read(path, plan_of())
    assert whole.texts == table["text"]
    for least in (0, 1000, 10_000, 1 << 20):
        monkeypatch.setattr(stream_module, "LEAST_BYTES", least)
        for cut in (1, 5, 11):
            rows = cut * 90
            first = slice_of(path, 0, cut, rows=rows, first_row=0)
            second = slice_of(path, cut, 12, rows=1000 - rows)  # its first row is known from the footer
            parts = read([first, second], plan_of())
            assert (parts.texts, parts.ids) == (whole.texts, whole.ids)
    with pytest.raises(ObjectError, match="holds 90 rows where its footer promised 91"):
        read(slice_of(path, 0, 1, rows=91), plan_of())
    with pytest.raises(ObjectError, match="has 12 row groups where 13 were planned"):
        read(slice_of(path, 0, 13), plan_of())


def test_a_dictionary_of_long_texts_does_not_fill_memory(tmp_path: Path) -> None:
    long = ["x" * 4_000_000, "y" * 3_000_000]
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 30), long)
    path = put_parquet(tmp_path / "a.parquet", {"text": column}, store_schema=False)
    windows = read_windows(Shard(0, (slice_of(path),), 0), plan_of(), {})
    base = pa.total_allocated_bytes()
    sizes = [(window.table.num_rows, pa.total_allocated_bytes() - base) for window in windows]
    assert sum(rows for rows, _ in sizes) == 60
    assert max(held for _, held in sizes) < 100_000_000  # 210 MB of text went by


def test_damage_is_the_objects_fault(tmp_path: Path) -> None:
    good = put_parquet(
        tmp_path / "good.parquet", {"text": [f"row {n}" for n in range(5000)]}, write_page_checksum=True
    ).read_bytes()
    page = pq.read_metadata(tmp_path / "good.parquet").row_group(0).column(0).data_page_offset + 300
    for name, data in {
        "zero": b"", "text": b"hello, this is no Parquet at all", "footer cut": good[:-60], "short": good[:3],
        "flip": good[:page] + bytes([good[page] ^ 64]) + good[page + 1 :],
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        with pytest.raises(ObjectError, match=r"truncated or corrupt Parquet after 0 rows \(.*\); upload it again"):
            read(slice_of(path, 0, 1), plan_of())


FLIPS = """
import random, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.workers.corpus_files import plan_of, read, slice_of
from workers.errors import ObjectError
from workers.reading.reader import read_windows
from workers.records.shard import Shard
good = Path({path!r}).read_bytes()
rng = random.Random(5)
for turn in range(150):
    data = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(4, len(data) - 8)] ^= 1 << rng.randrange(8)
    path = Path({path!r} + ".flip.parquet")
    path.write_bytes(data)
    try:
        read(slice_of(path, 0, 2), plan_of(id="id"))
    except ObjectError:
        pass
"""


@pytest.mark.slow
def test_flipped_bytes_never_kill_the_process(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [rng.choice(["short", "a longer text", "漢字"]) * rng.randint(1, 9) for _ in range(400)]
    path = put_parquet(tmp_path / "a.parquet", {"id": range(400), "text": texts}, row_group_size=200, compression="none")
    script = FLIPS.format(path=str(path), root=str(Path(__file__).parents[3]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

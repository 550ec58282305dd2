"""Arrow IPC files and streams, by pyarrow, pandas and Polars: every row once, splits, damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from tests.workers.corpus_files import bad_utf8, plan_of, read, slice_of
from tests.workers.planned_files import read_corpus
from workers.errors import ObjectError
from workers.reading.footers.arrow import parse_footers

ROWS = 3000
FRAME = pd.DataFrame(
    {
        "id": range(ROWS),
        "text": [
            f"document {number}: wörds " + random.Random(number).randbytes(number % 99).hex() for number in range(ROWS)
        ],
        "lang": pd.Categorical([("en", "de", "日本")[number % 3] for number in range(ROWS)]),
        "tags": [[str(number), "x"] for number in range(ROWS)],
        "noise": [random.Random(number).random() for number in range(ROWS)],
    }
)
TABLE = pa.Table.from_pandas(FRAME, preserve_index=False)


def by_pyarrow(path: Path, compression: str | None, *, stream: bool = False) -> None:
    new = ipc.new_stream if stream else ipc.new_file
    with new(path, TABLE.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(TABLE, max_chunksize=400)


def by_polars(path: Path, compression: Any, *, stream: bool = False) -> None:
    frame = pl.from_pandas(FRAME)
    if stream:
        frame.write_ipc_stream(path, compression=compression or "uncompressed")
    else:
        frame.write_ipc(path, compression=compression or "uncompressed", record_batch_size=500)


def by_pandas(path: Path, compression: str | None) -> None:
    FRAME.to_feather(path, compression=compression or "uncompressed", chunksize=600)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_files_of_other_writers_split_by_record_batch(tmp_path: Path, compression: str | None) -> None:
    by_pyarrow(tmp_path / "pyarrow.arrow", compression)
    by_pandas(tmp_path / "pandas.feather", compression)
    by_polars(tmp_path / "polars.ipc", compression)
    by_pyarrow(tmp_path / "stream.arrow", compression, stream=True)
    by_polars(tmp_path / "polars_stream.arrow", compression, stream=True)
    planned = read_corpus(tmp_path, 20_000, id="id", keep=["lang", "tags"])
    assert planned.corpus.read_plan.id_type == pa.int64(), "its schema has types"
    assert not planned.quarantined
    assert not planned.lost
    for name in ("pyarrow.arrow", "pandas.feather", "polars.ipc"):
        assert planned.slices_of(name) > 1
        (source,) = (source for source in planned.corpus.objects if source.info.uri.endswith(name))
        assert source.rows == ROWS
        expected = pl.read_ipc(tmp_path / name).to_dicts()
        assert [_public(row) for row in planned.rows_of(name)] == [
            {name: row[name] for name in ("id", "text", "lang", "tags")} for row in expected
        ]
    for name in ("stream.arrow", "polars_stream.arrow"):
        assert planned.slices_of(name) == 1
        assert [_public(row) for row in planned.rows_of(name)] == FRAME[["id", "text", "lang", "tags"]].to_dict("records")


def _public(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "text": row["text"], "lang": row["keep.lang"], "tags": row["keep.tags"]}


def test_ids_by_row_number_and_text_bytes_about_right(tmp_path: Path) -> None:
    by_pyarrow(tmp_path / "a.arrow", None)
    by_polars(tmp_path / "b.arrow", None)
    planned = read_corpus(tmp_path, 20_000)
    for name in ("a.arrow", "b.arrow"):
        assert [row["id"].rpartition("#")[2] for row in planned.rows_of(name)] == [str(row) for row in range(ROWS)]
        assert [row["text"] for row in planned.rows_of(name)] == list(FRAME.text)
    size = sum(len(text.encode()) for text in FRAME.text)
    for source in planned.corpus.objects:
        assert source.row_groups is not None
        assert sum(group.text_bytes for group in source.row_groups) == pytest.approx(size, rel=0.15)


def test_row_numbers_are_right_where_the_plan_does_not_give_them(tmp_path: Path) -> None:
    by_pandas(tmp_path / "a.feather", "lz4")
    piece = slice_of(tmp_path / "a.feather", 2, 4)
    found = read(piece, plan_of(id="id", id_type=pa.int64()))
    assert [row["row"] for row in found.documents] == list(range(1200, 2400))
    assert found.ids == list(range(1200, 2400))


def test_bad_rows_are_quarantined_and_dictionary_texts_decoded(tmp_path: Path) -> None:
    texts = pa.array(["one", None, " ", "one", "two"]).dictionary_encode()
    ids = pa.array(["a", "b", "c", None, "e"], pa.string_view())
    table = pa.table({"id": ids, "text": texts, "raw": bad_utf8(b"\xff", b"r", b"r", b"r", b"r")})
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    planned = read_corpus(tmp_path, id="id", keep=["raw"])
    assert [row["id"] for row in planned.rows_of("a.arrow")] == ["e"]
    assert planned.reasons("a.arrow") == {
        0: "kept column raw is not valid UTF-8", 1: "text is null", 2: "text is empty", 3: "id is null",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "zero bytes"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:-10] + (1 << 30).to_bytes(4, "little") + data[-6:], "claims"),
        (lambda data: data[:-400] + bytes(300) + data[-100:], "footer"),
        (lambda data: b"FEA1" + data[4:], "version 1"),
        (lambda data: b"GIF89a" + data[6:], "begins neither"),
    ],
)
def test_damaged_footer_is_named_while_planning_and_the_object_quarantined(
    tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    by_pyarrow(tmp_path / "good.arrow", "zstd")
    by_pyarrow(tmp_path / "bad.arrow", "zstd")
    (tmp_path / "bad.arrow").write_bytes(damage((tmp_path / "bad.arrow").read_bytes()))
    planned = read_corpus(tmp_path, id="id")
    (warning,) = (warning for warning in planned.corpus.warnings if "bad.arrow" in warning)
    assert words in warning
    assert set(planned.lost) == {"bad.arrow"}
    assert len(planned.rows_of("good.arrow")) == ROWS


def test_cut_stream_is_named_though_every_batch_that_is_left_is_whole(tmp_path: Path) -> None:
    by_pyarrow(tmp_path / "a.arrow", None, stream=True)
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data.removesuffix(b"\xff\xff\xff\xff\0\0\0\0"))
    planned = read_corpus(tmp_path)
    assert "no end marker" in planned.lost["a.arrow"]
    assert planned.documents == {}


def test_offsets_that_point_elsewhere_are_never_followed(tmp_path: Path) -> None:
    """pyarrow hands out arrays as they lie in the file: an offset beyond the data would end the replica."""
    table = pa.table({"text": ["aaaa", "bbbb", "cccc"]})
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "a.arrow").read_bytes()
    offsets = b"".join(at.to_bytes(4, "little") for at in (0, 4, 8, 12))
    assert data.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(offsets, offsets[:4] + (1 << 30).to_bytes(4, "little") + offsets[8:]))
    piece = slice_of(tmp_path / "a.arrow", 0, 1)
    with pytest.raises(ObjectError, match=r"a\.arrow: truncated or corrupt Arrow after 0 rows"):
        read(piece, plan_of())


@pytest.mark.parametrize("write", [by_pyarrow, by_polars])
def test_a_footer_that_lists_fewer_batches_than_there_are_is_no_shorter_file(
    tmp_path: Path, write: Callable[[Path, str | None], None]
) -> None:
    """Zeros over the field that points to the list make a footer that is valid, and empty."""
    write(tmp_path / "a.arrow", "zstd")
    data = bytearray((tmp_path / "a.arrow").read_bytes())
    footer_at = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    table = footer_at + int.from_bytes(data[footer_at : footer_at + 4], "little")
    fields = table - int.from_bytes(data[table : table + 4], "little", signed=True) + 4
    data[fields + 6 : fields + 8] = bytes(2)  # the fourth field: record batches
    (tmp_path / "a.arrow").write_bytes(data)
    assert ipc.open_file(tmp_path / "a.arrow").num_record_batches == 0, "pyarrow sees no rows, and no error"
    planned = read_corpus(tmp_path)
    assert any("lists nothing between" in warning for warning in planned.corpus.warnings)
    assert "a.arrow" in planned.lost


def test_an_end_marker_within_a_stream_is_no_end(tmp_path: Path) -> None:
    by_pyarrow(tmp_path / "a.arrow", None, stream=True)
    data = (tmp_path / "a.arrow").read_bytes()
    messages = [at for at in range(0, len(data), 8) if data[at : at + 4] == b"\xff" * 4 and 0 < data[at + 5] < 4]
    at = messages[len(messages) // 2]
    (tmp_path / "a.arrow").write_bytes(data[: at + 4] + bytes(4) + data[at + 8 :])
    assert "an end marker at byte" in read_corpus(tmp_path).lost["a.arrow"]


def test_noise_as_a_footer_is_a_problem_and_no_error() -> None:
    for seed in range(200):
        noise = random.Random(seed).randbytes(300)
        (told,) = parse_footers([((noise, b""), 10_000)], ["text"], ["id"])
        assert isinstance(told, str)
        assert "footer" in told

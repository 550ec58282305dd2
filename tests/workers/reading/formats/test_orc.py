"""ORC files by pyarrow, pandas and pyorc: every row once, splits by stripe, damage.

files/pyorc_*.orc were written by pyorc 0.12 (its own build of the ORC library, dictionary encoding): 400 rows made by
`pyorc_rows`, stripe_size 8192, batch_size 64, dict_key_size_threshold 0.9.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.orc as orc
import pytest

from tests.workers.corpus_files import plan_of, read, slice_of
from tests.workers.planned_files import read_corpus
from workers.errors import ObjectError
from workers.reading.footers.facts import TAIL_BYTES
from workers.reading.footers.orc import fetch_footer, message, parse_footers

FILES = Path(__file__).parent / "files"
ROWS = 6000
FRAME = pd.DataFrame(
    {
        "id": range(ROWS),
        "text": [
            f"document {number}: wörds " + random.Random(number).randbytes(number % 99).hex() for number in range(ROWS)
        ],
        "lang": [("en", "de", "日本")[number % 3] for number in range(ROWS)],
        "tags": [[str(number), "x"] for number in range(ROWS)],
    }
)
TABLE = pa.Table.from_pandas(FRAME, preserve_index=False)
COLUMNS = list(FRAME.columns)


def pyorc_rows() -> list[dict[str, Any]]:
    texts = [f"document {number}: wörds " + random.Random(number).randbytes(number % 40).hex() for number in range(400)]
    return [
        {
            "id": number,
            "text": None if number % 50 == 7 else text,
            "lang": ("en", "de", "日本")[number % 3],
            "tags": [str(number), "x"] if number % 5 else [],
            "info": {"score": number / 8, "flag": number % 2 == 0},
        }
        for number, text in enumerate(texts)
    ]


def put_orc(path: Path, table: pa.Table, compression: str = "zstd", stripe_size: int = 1 << 16) -> Path:
    orc.write_table(table, path, compression=compression, stripe_size=stripe_size, batch_size=256)
    return path


@pytest.mark.parametrize("compression", ["uncompressed", "snappy", "zlib", "lz4", "zstd"])
def test_files_are_split_by_stripe_and_every_row_is_read_once(tmp_path: Path, compression: str) -> None:
    put_orc(tmp_path / "a.orc", TABLE, compression)
    planned = read_corpus(tmp_path, 50_000, id="id", keep=["lang", "tags"])
    assert planned.corpus.read_plan.id_type == pa.int64()
    assert planned.slices_of("a.orc") > 2
    assert planned.corpus.rows == ROWS
    expected = pd.read_orc(tmp_path / "a.orc")
    rows = planned.rows_of("a.orc")
    assert [row["id"] for row in rows] == list(expected.id)
    assert [row["text"] for row in rows] == list(expected.text)
    assert [row["keep.lang"] for row in rows] == list(expected.lang)
    assert [row["keep.tags"] for row in rows] == [list(tags) for tags in expected.tags]
    assert planned.corpus.text_bytes == pytest.approx(sum(len(text.encode()) for text in FRAME.text), rel=0.01)


def test_pandas_files_and_ids_by_row_number(tmp_path: Path) -> None:
    FRAME.to_orc(tmp_path / "a.orc", index=False)
    planned = read_corpus(tmp_path, 50_000, keep=["lang"])
    assert [row["id"].rpartition("#")[2] for row in planned.rows_of("a.orc")] == [str(row) for row in range(ROWS)]
    assert [row["text"] for row in planned.rows_of("a.orc")] == list(FRAME.text)


@pytest.mark.parametrize("name", ["pyorc_zlib.orc", "pyorc_snappy.orc"])
def test_files_of_another_writer_with_nulls_dictionaries_and_nested_columns(tmp_path: Path, name: str) -> None:
    shutil.copy(FILES / name, tmp_path)
    planned = read_corpus(tmp_path, 4000, id="id", keep=["lang", "tags", "info"])
    assert planned.slices_of(name) == 2
    expected = pyorc_rows()
    assert [
        {"id": row["id"], "text": row["text"]} | {key: row[f"keep.{key}"] for key in ("lang", "tags", "info")}
        for row in planned.rows_of(name)
    ] == [row for row in expected if row["text"] is not None]
    assert planned.reasons(name) == {row["id"]: "text is null" for row in expected if row["text"] is None}


def test_row_numbers_are_right_where_the_plan_does_not_give_them(tmp_path: Path) -> None:
    path = put_orc(tmp_path / "a.orc", TABLE)
    file = orc.ORCFile(path)
    sizes = [file.read_stripe(number, columns=["id"]).num_rows for number in range(file.nstripes)]
    found = read(slice_of(path, 1, 3), plan_of(id="id", id_type=pa.int64()))
    assert found.ids == [row["row"] for row in found.documents] == list(range(sizes[0], sum(sizes[:3])))
    with pytest.raises(ObjectError, match="stripes where 99 were planned"):
        read(slice_of(path, 0, 99), plan_of())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "zero bytes"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:-60] + bytes(30) + data[-30:], "footer"),
        (lambda data: data + b"more", "cut off"),
    ],
)
def test_damaged_footer_is_named_while_planning_and_the_object_quarantined(
    tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    put_orc(tmp_path / "good.orc", TABLE)
    data = put_orc(tmp_path / "bad.orc", TABLE).read_bytes()
    (tmp_path / "bad.orc").write_bytes(damage(data))
    planned = read_corpus(tmp_path, id="id")
    (warning,) = (warning for warning in planned.corpus.warnings if "bad.orc" in warning)
    assert words in warning
    assert set(planned.lost) == {"bad.orc"}
    assert len(planned.rows_of("good.orc")) == ROWS


def test_damaged_stripe_is_named_by_its_replica(tmp_path: Path) -> None:
    path = put_orc(tmp_path / "a.orc", TABLE)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = bytes(2000)
    path.write_bytes(data)
    assert "truncated or corrupt ORC after" in read_corpus(tmp_path, id="id").lost["a.orc"]


def test_footer_beyond_the_first_request_is_fetched_by_a_second(tmp_path: Path) -> None:
    columns = {f"column_{number:04d}_{random.Random(number).randbytes(20).hex()}": ["v"] for number in range(3000)}
    data = put_orc(tmp_path / "a.orc", pa.table(columns | {"text": ["x"]}), "uncompressed").read_bytes()
    asked: list[tuple[int, int]] = []

    def ranges(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    footer = fetch_footer(ranges, len(data))
    assert isinstance(footer, tuple)
    assert asked == [(len(data) - TAIL_BYTES, len(data)), (len(data) - len(footer[0]), len(data))]
    assert read_corpus(tmp_path).corpus.rows == 1


def test_noise_is_a_problem_and_no_error() -> None:
    for seed in range(100):
        noise = random.Random(seed).randbytes(300)
        problem = fetch_footer(lambda start, stop, data=noise: data[start:stop], len(noise))  # type: ignore[misc]
        assert isinstance(problem, str)
        (told,) = parse_footers([((noise,), 10_000)], ["text"], ["id"])
        assert isinstance(told, str)
    with pytest.raises(ValueError, match="cut off"):
        message(b"\x08\xff")
    assert message(b"\x08\x96\x01\x12\x02hi") == {1: [150], 2: [b"hi"]}

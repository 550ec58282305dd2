"""CSV and TSV: quoting, damage, kept types, and that a stray quote loses nothing silently."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.corpus_files import plan_of, put, read, slice_of
from workers.config import CsvConfig
from workers.errors import ObjectError
from workers.reading.lines import LINE_OVERHEAD


def written(rows: list[list[Any]], end: str = "\r\n", **options: Any) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=end, **options).writerows(rows)
    return buffer.getvalue().encode()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".csv.bz2", ".tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_come_through_untouched(tmp_path: Path, suffix: str, end: str) -> None:
    texts = ["plain", 'say "hi", ok', "two\nlines", "two\r\nlines", "tab\there", "nul \x00", "🎉 漢字 שלום", "y" * 5_000_000]
    data = written(
        [["id", "text"], *([n, t] for n, t in enumerate(texts))], end, delimiter="\t" if suffix == ".tsv" else ","
    )
    dialect = CsvConfig(quote='"') if suffix == ".tsv" else CsvConfig()
    found = read(put(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + data), plan_of(id="id", csv=dialect))
    assert found.texts == texts
    assert found.ids == [str(number) for number in range(len(texts))]


def test_bad_rows_are_quarantined_and_named(tmp_path: Path) -> None:
    data = (
        b"id,text,n\n"
        b"a,fine,1\n"
        b"b,,1\n"  # empty
        b"c,few\n"
        b"d,many,1,2\n"
        b"e,\xff,1\n"
        b",null id,1\n"
        b'f,"bad" quote,1\n'
        b"g,word,seven\n"
        b"\n"
        b"h,  ,1\n"
        b'i,5" pipe,\n'
        b"j," + b"x" * 101 + b",1\n"
        b"k,last,3"
    )
    found = read(put(tmp_path / "a.csv", data), plan_of({"n": pa.int64(), "text": pa.string()}, id="id", max_text_bytes=100))
    assert found.ids == ["a", "i", "k"]
    assert found.kept("n") == [1, None, 3]
    assert found.kept("text") == ["fine", '5" pipe', "last"]
    assert found.rows_read == 12
    assert found.reasons == {
        1: "text is empty",
        2: "record has 2 fields where the header has 3, bytes 24 to 30",
        3: "record has 4 fields where the header has 3, bytes 30 to 41",
        4: "record is not valid UTF-8 (byte 43), bytes 41 to 47",
        5: "id is null",
        6: "record is not valid CSV (',' expected after '\"'), bytes 58 to 74",
        7: "kept column n: a value of type string does not fit int64",
        8: "text is empty",
        10: "text is too long (101 bytes, corpus.max_text_bytes is 100)",
    }


def test_a_quote_never_closed_counts_every_line_it_swallows(tmp_path: Path) -> None:
    data = b"id,text\n0,a\n1,b\n" + b'2,"oops\n' + b"".join(b"%d,x\n" % row for row in range(3, 1000))
    found = read(put(tmp_path / "a.csv", data), plan_of(id="id"))
    assert found.texts == ["a", "b"]
    (lost,) = found.quarantined
    assert lost.rows == 998
    assert lost.reason == f"a quote is never closed, bytes 16 to {len(data)} (998 lines)"
    assert found.rows_read == 1000


def test_a_stray_quote_loses_no_more_than_it_names(tmp_path: Path) -> None:
    data = b'id,text\n0,"oops\n1,b\n2,"quoted"\n3,d\n'
    found = read(put(tmp_path / "a.csv", data), plan_of(id="id"))
    assert found.texts == ["d"]
    assert [(row.rows, row.reason) for row in found.quarantined] == [
        (3, "record is not valid CSV (',' expected after '\"'), bytes 8 to 31 (3 lines)")
    ]
    assert found.rows_read == 4


@pytest.mark.parametrize("lines", [1, 400])
def test_a_record_beyond_the_limit_is_followed_to_its_end(tmp_path: Path, lines: int) -> None:
    long = ("y," * (4 * LINE_OVERHEAD // lines // 2) + "\n") * lines + 'has ""doubled"" quotes\n1,no record\n'
    data = f'id,text\n0,a\n1,"{long}"\n2,c\n'.encode()
    path = put(tmp_path / "a.csv", data)
    found = read(path, plan_of(id="id", max_text_bytes=1000))
    assert found.texts == ["a", "c"]
    assert found.reasons == {1: f"record is too long ({len(data) - 16} bytes, corpus.max_text_bytes is 1000)"}

    path.write_bytes(data.replace(b'\n"\n', b"\n"))
    found = read(path, plan_of(id="id", max_text_bytes=1000))
    assert found.texts == ["a"]
    assert "a quote is never closed" in found.reasons[1]
    assert found.quarantined[0].rows == lines + 3


def test_kept_columns(tmp_path: Path) -> None:
    keep = {"n": pa.int64(), "f": pa.float32(), "b": pa.bool_(), "d": pa.date32(), "s": pa.string(), "none": pa.int8()}
    data = b"text,n,f,b,d,s\nx,1,0.5,true,2024-05-01,word\ny,,,,,\n"
    found = read(put(tmp_path / "a.csv", data), plan_of({**keep, "lang": pa.string()}))
    assert [row[f"keep.{name}"] for row in found.documents for name in keep][6:] == [None, None, None, None, "", None]
    assert found.kept("n") == [1, None]
    assert found.kept("d")[0].isoformat() == "2024-05-01"
    path = slice_of(tmp_path / "a.csv", partitions=(("lang", "de"), ("s", "not used")))
    again = read(path, plan_of({"s": pa.string(), "lang": pa.string()}, text=["text", "lang"], id="lang"))
    assert again.texts == ["x\nde", "y\nde"]
    assert again.ids == again.kept("lang") == ["de", "de"]
    assert again.kept("s") == ["word", ""]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (b"id,body\n1,a\n", {}, r"no column 'text' \(corpus.text\), only id, body"),
        (b"id,text\n1,a\n", {"id": "key"}, r"no column 'key' \(corpus.id\)"),
        (b"text,text\na,b\n", {}, "more than one column 'text'"),
        (b"te\xffxt\na\n", {}, "header cannot be read"),
        (b'"text\na\n', {}, "header cannot be read: a quote is never closed"),
    ],
)
def test_headers_that_do_not_serve(tmp_path: Path, data: bytes, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectError, match=message):
        read(put(tmp_path / "a.csv", data), plan_of(**settings))


def test_a_nested_type_cannot_come_from_csv(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match="kept column 'n': string cannot become list<item: int64>"):
        read(put(tmp_path / "a.csv", b"text,n\na,1\n"), plan_of({"n": pa.list_(pa.int64())}))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"id,text\n", b"\xef\xbb\xbfid,text"])
def test_objects_without_rows(tmp_path: Path, data: bytes) -> None:
    assert read(put(tmp_path / "a.csv", data), plan_of(id="id")).windows == []


def test_truncated(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv.gz", written([["text"], *([f"row {n}"] for n in range(10_000))]))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ObjectError, match="truncated or corrupt gzip after"):
        read(path, plan_of())


CELL = st.text(st.sampled_from('ab,"\n\r é漢'), max_size=6)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL), max_size=10), st.sampled_from(["\n", "\r\n"]), st.sets(st.integers(0, 10)))
def test_slices_cut_at_record_borders_tile_the_object(
    tmp_path: Path, rows: list[tuple[str, str]], end: str, cuts: set[int]
) -> None:
    records = [written([["text", "other"]], end), *(written([list(row)], end, quoting=csv.QUOTE_ALL) for row in rows)]
    path = put(tmp_path / "a.csv", b"".join(records))
    plan = plan_of({"text": pa.string(), "other": pa.string()})
    whole = read(path, plan)
    assert whole.rows_read == len(rows)
    assert list(zip(whole.kept("text"), whole.kept("other"), strict=True)) == [row for row in rows if row[0].strip()]

    borders = sorted({0, *(cut for cut in cuts if 0 < cut < len(rows)), len(rows)})
    pieces = []
    for first, last in itertools.pairwise(borders):
        start = sum(map(len, records[: first + 1])) if first else 0
        pieces.append(slice_of(path, start, sum(map(len, records[: last + 1])), first_row=first))
    cut = read(pieces, plan)
    assert cut.documents == whole.documents
    assert cut.quarantined == whole.quarantined

"""corpus.csv: objects as people have them, read by the settings that fit; and the settings themselves."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tests.workers.corpus_files import plan_of, put, read, slice_of
from workers.config import CorpusConfig, CsvConfig
from workers.errors import ObjectError

TEXTS = ["plain", 'she said "no", and left', "semi;colon, comma|pipe\ttab", "two\nlines", "back\\slash", "ümläut", ""]
ROWS = [[str(number), text] for number, text in enumerate(TEXTS)]


def written(rows: list[list[str]], **dialect: Any) -> str:
    """As Python's own writer writes it: the reference of what is in a field."""
    sink = io.StringIO()
    csv.writer(sink, **({"lineterminator": "\n"} | dialect)).writerows(rows)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [
        ("a.csv", written([["id", "text"], *ROWS]), {}),
        ("a.csv", written([["id", "text"], *ROWS], delimiter=";"), {"delimiter": ";"}),
        ("a.csv", written([["id", "text"], *ROWS], delimiter="|", lineterminator="\r\n"), {"delimiter": "|"}),
        ("a.csv", "sep=;\r\n" + written([["id", "text"], *ROWS], delimiter=";"), {}),
        ("a.csv", "\ufeffsep=;\n" + written([["id", "text"], *ROWS], delimiter=";"), {"delimiter": ";"}),
        ("a.csv", written([["id", "text"], *ROWS], escapechar="\\", doublequote=False), {"escape": "\\"}),
        ("a.csv", written([["id", "text"], *ROWS], quotechar="'"), {"quote": "'"}),
        ("a.csv", written(ROWS), {"header": False, "columns": ["id", "text"]}),
        ("a.csv", "A title\n\n" + written([["id", "text"], *ROWS]), {"skip_rows": 2}),
        ("a.csv", written([["id", "text", ""], *([*row, ""] for row in ROWS)]), {"columns": ["id", "text", "_"]}),
        ("a.csv", "id, text\n" + "".join(f'{a}, "{b}"\n' for a, b in ROWS[2:]), {"skip_blanks": True}),
        ("a.tsv", written([["id", "text"], *ROWS], delimiter="\t"), {"quote": '"'}),
        ("a.tsv", written([["id", "text"], *ROWS]), {"delimiter": ",", "quote": '"'}),
    ],
)
def test_read_by_the_settings_that_fit(tmp_path: Path, name: str, data: str, settings: dict[str, Any]) -> None:
    found = read(put(tmp_path / name, data.encode()), plan_of({"text": pa.string()}, id="id", csv=CsvConfig(**settings)))
    wanted = [row for row in (ROWS[2:] if "skip_blanks" in settings else ROWS) if row[1]]
    assert list(zip(found.ids, found.texts, strict=True)) == [tuple(row) for row in wanted]
    assert list(found.reasons.values()) == ["text is empty"]
    assert found.kept("text") == found.texts


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030", "big5", "euc_kr"])
def test_encodings_in_which_ascii_is_ascii(tmp_path: Path, encoding: str) -> None:
    texts = {
        "latin-1": "café",
        "cp1252": "“café”",
        "shift_jis": "表ソ能\\",
        "gb18030": "漢字,€",
        "big5": "功許蓋",
        "euc_kr": "한국어",
    }
    data = f'id,text\n1,"{texts[encoding]}"\n'.encode(encoding)
    found = read(put(tmp_path / "a.csv", data), plan_of(id="id", csv=CsvConfig(encoding=encoding)))
    assert found.texts == [texts[encoding]]
    bad = read(
        put(tmp_path / "b.csv", b"id,text\n1,\xff\xff\n2,fine\n"), plan_of(id="id", csv=CsvConfig(encoding="shift_jis"))
    )
    assert bad.texts == ["fine"]
    assert "record is not valid SHIFT_JIS (byte 10)" in bad.reasons[0]


def test_quotes_in_tsv_are_text_and_every_line_is_a_row(tmp_path: Path) -> None:
    titles = [
        "The Short",
        '"Orlok"',
        '"Dance on" said he',
        'I said "yes"',
        '"Open',
        "Next title",
        "One more",
        'closes"',
        "Last",
    ]
    data = "id\ttext\tyear\n" + "".join(f"{at}\t{title}\t19{at}0\n" for at, title in enumerate(titles))
    found = read(put(tmp_path / "a.tsv", data.encode()), plan_of({"year": pa.int64()}, id="id"))
    assert found.texts == titles
    assert found.kept("year") == [1900 + 10 * at for at in range(9)]


def test_a_quoted_tsv_loses_nothing_without_a_word(tmp_path: Path) -> None:
    rows = [["id", "text"], *([f"plain {at}", "x" * 100] for at in range(200)), *ROWS[:6]]  # quotes come late
    found = read(put(tmp_path / "a.tsv", written(rows, delimiter="\t").encode()), plan_of(id="id"))
    assert found.texts[200:] == ["plain", "back\\slash", "ümläut"], "as any reader has them"
    assert list(found.reasons) == [201, 202, 203, 204], "a quote, a tab, and the two lines of one field"
    assert "its last field opens a quote, and the next line is no record: set corpus.csv.quote" in found.reasons[203]
    assert "set corpus.csv.quote: '\"' if its writer quoted it" in found.reasons[201]
    assert "has 3 fields where the header has 2" in found.reasons[202]
    early = put(tmp_path / "b.tsv", written([["id", "text"], *ROWS[:6]], delimiter="\t").encode())
    with pytest.raises(ObjectError, match=r"its fields are quoted, .* set corpus\.csv\.quote: '\"'"):
        read(early, plan_of(id="id"))
    as_text = read(put(tmp_path / "c.tsv", b'id\ttext\n1\t"a ""b"" c"\n'), plan_of(id="id", csv=CsvConfig(quote="")))
    assert as_text.texts == ['"a ""b"" c"'], "quotes are text where that is said"


def test_tsv_of_a_run_begun_by_an_earlier_version_is_read_as_it_began(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", written([["id", "text"], *ROWS[:4]], delimiter="\t").encode())
    plan = plan_of(id="id")
    earlier = type(plan)(plan.corpus, plan.id_type, plan.keep, row_rules=1)
    assert read(path, earlier).texts == TEXTS[:4]


def test_null_of_mysql_is_empty_and_its_letter_is_not(tmp_path: Path) -> None:
    data = b'id,text,n\n1,a,\\N\n2,"x,\\N,\\"y",3\n\\N,b,4\n5,N,\\N\n6,"\\N",7\n'
    found = read(put(tmp_path / "a.csv", data), plan_of({"n": pa.int64()}, id="id", csv=CsvConfig(escape="\\")))
    assert list(zip(found.ids, found.texts, found.kept("n"), strict=True)) == [
        ("1", "a", None),
        ("2", 'x,N,"y', 3),
        ("5", "N", None),
        ("6", "N", 7),
    ]
    assert found.reasons == {2: "id is null"}


@pytest.mark.parametrize("settings", [{}, {"skip_rows": 2}, {"header": False, "columns": ["text"]}])
def test_slices_tile_an_object_by_any_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    beginning = {"skip_rows": "title\n\n", "header": ""}.get(next(iter(settings), ""), "sep=;\n")
    header = "" if "header" in settings else "text\n"
    records = [f'"row {at};\n;x"\n' if at % 3 else f"row {at}\n" for at in range(30)]
    config = {"delimiter": ";"} | settings if settings else {}
    path = put(tmp_path / "a.csv", (beginning + header + "".join(records)).encode())
    plan = plan_of(csv=CsvConfig(**config))
    whole = read(path, plan)
    assert whole.rows_read == 30
    cut = len((beginning + header + "".join(records[:10])).encode())
    pieces = [slice_of(path, 0, cut, first_row=0), slice_of(path, cut, path.stat().st_size, first_row=10)]
    assert read(pieces, plan).documents == whole.documents


def test_sep_and_the_setting_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match=r"first line says sep=;, corpus\.csv\.delimiter ','"):
        read(put(tmp_path / "a.csv", b"sep=;\nid;text\n"), plan_of(csv=CsvConfig(delimiter=",")))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"delimiter": "||"}, "one character"),
        ({"delimiter": "\n"}, "one character"),
        ({"quote": "''"}, "quote"),
        ({"delimiter": "'", "quote": "'"}, "different characters"),
        ({"header": False}, "needs columns"),
        ({"encoding": "utf-16"}, "ASCII is ASCII"),
        ({"encoding": "no-such"}, "ASCII is ASCII"),
        ({"skip_rows": -1}, "skip_rows"),
        ({"dialect": "excel"}, "dialect"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CsvConfig(**settings)


def test_the_default_is_not_stored_so_that_earlier_runs_are_known() -> None:
    assert "csv" not in CorpusConfig(uri=["x"]).model_dump(mode="json", exclude={"storage_options"})
    dumped = CorpusConfig(uri=["x"], csv=CsvConfig(delimiter="\\t")).model_dump(mode="json")
    assert dumped["csv"]["delimiter"] == "\t"

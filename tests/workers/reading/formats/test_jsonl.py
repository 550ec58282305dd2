"""JSON lines: every trap, and that nothing is lost between rows in and documents plus quarantine."""

from __future__ import annotations

import datetime
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.corpus_files import COMPRESS, plan_of, put, put_jsonl, read, slice_of
from workers.errors import ObjectError

WORLD = ["plain", "emoji 🎉👩‍👩‍👧", "漢字かな交じり文", "שלום עולם", 'tab\tand "quotes"', "nul \x00 inside", "line\nbreak"]


def test_every_kind_of_bad_line_is_quarantined_and_named(tmp_path: Path) -> None:
    path = put_jsonl(
        tmp_path / "a.jsonl",
        {"id": "ok", "text": "fine"},
        {"id": "null", "text": None},
        {"id": "missing"},
        {"id": "empty", "text": ""},
        {"id": "space", "text": " \u3000\t"},
        {"id": "number", "text": 7},
        {"id": "long", "text": "x" * 101},
        '{"id": "surrogate", "text": "a\\ud800b"}',
        b'{"id": "utf8", "text": "\xff"}',
        '{"id": "cut", "text": "abc',
        '["no", "object"]',
        "[" * 100_000,
        {"id": None, "text": "null id"},
        {"text": "no id"},
        {"id": [1], "text": "list id"},
        '{"id": "\\udc00", "text": "surrogate id"}',
        '{"id": 1, "text": "digits", "n": ' + "9" * 5000 + "}",
        "   ",
        '{"id": "twice", "text": "first", "text": "second"}',
    )
    found = read(path, plan_of(id="id", max_text_bytes=100))
    assert found.texts == ["fine", "second"]
    assert found.rows_read == 18  # the blank line is no row
    assert found.reasons == {
        1: "text is null",
        2: "text is missing (no key 'text')",
        3: "text is empty",
        4: "text is empty",
        5: "text is not a string but number",
        6: "text is too long (101 bytes, corpus.max_text_bytes is 100)",
        7: "text is not valid Unicode (half of a surrogate pair)",
        8: "line is not valid UTF-8 (byte 24)",
        9: "line is not valid JSON (col 23: Unterminated string starting at)",
        10: "line is not a JSON object but array",
        11: "line is nested too deeply",
        12: "id is null",
        13: "id is null",
        14: "id is not a scalar but array",
        15: "id is not valid Unicode (half of a surrogate pair)",
        16: "line is not valid JSON (a number of thousands of digits)",
    }
    assert [row.id for row in found.quarantined][:3] == ["null", "missing", "empty"]
    assert {row.object for row in found.quarantined} == {path.as_uri()}


def test_texts_come_through_untouched(tmp_path: Path) -> None:
    texts = [*WORLD, "y" * 5_000_000]
    for escaped in (True, False):
        path = put(
            tmp_path / f"{escaped}.jsonl",
            "\r\n".join(json.dumps({"text": text}, ensure_ascii=escaped) for text in texts).encode(),
        )
        found = read(path, plan_of())
        assert found.texts == texts
        assert found.ids == [f"{path}#{row}" for row in range(len(texts))]
        assert [row["row"] for row in found.documents] == list(range(len(texts)))
        assert {row["object"] for row in found.documents} == {path.as_uri()}


def test_ids_of_every_scalar_type(tmp_path: Path) -> None:
    ids = [1, 2**70, 1.5, 1e300, True, False, "x", "", "x"]
    found = read(put_jsonl(tmp_path / "a.jsonl", *({"id": i, "text": "t"} for i in ids)), plan_of(id="id"))
    assert found.ids == ["1", str(2**70), "1.5", "1e+300", "true", "false", "x", "", "x"]


def test_integer_ids_where_the_run_has_integers(tmp_path: Path) -> None:
    path = put_jsonl(tmp_path / "a.jsonl", *({"id": i, "text": "t"} for i in [5, "6x", 2**70, 1.0]))
    found = read(path, plan_of(id="id", id_type=pa.int64()))
    assert found.ids == [5]
    assert found.reasons[1] == "id: a value of type string does not fit int64"


def mend(column: str, kind: str = "json") -> str:
    return f"; corpus.schema: {{{column}: {kind}}} keeps it"


def test_kept_values(tmp_path: Path) -> None:
    keep = {
        "n": pa.int64(),
        "s": pa.string(),
        "tags": pa.list_(pa.string()),
        "meta": pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]),
        "day": pa.timestamp("s"),
        "map": pa.map_(pa.string(), pa.int64()),
    }
    path = put_jsonl(
        tmp_path / "a.jsonl",
        {"text": "all", "n": 1, "s": "x", "tags": ["p", "q"], "meta": {"a": 1, "b": [0.5, 2]}, "day": "2024-05-01T00:00:00",
         "map": {"k": 1}},
        {"text": "none"},
        {"text": "whole float", "n": 3.0, "s": "x", "tags": ["p"]},
        {"text": "float", "n": 1.5},
        {"text": "word", "n": "seven"},
        {"text": "unknown key", "meta": {"a": 1, "z": 2}},
        {"text": "float inside", "meta": {"a": 1.5}},
        {"text": "no list", "tags": "p"},
        '{"text": "surrogate", "s": "\\ud800"}',
        {"text": "no date", "day": "yesterday"},
        {"text": "epoch", "day": 1714521600},
        {"text": "no string", "s": {"any": ["value", 1]}},
        {"text": "no string inside", "tags": ["p", 7]},
        {"text": "no time of day", "day": "2024-05-01"},
    )  # fmt: skip
    found = read(path, plan_of(keep))
    assert found.texts == ["all", "none", "whole float"]
    assert found.kept("n") == [1, None, 3]
    assert found.kept("s") == ["x", None, "x"]
    assert found.kept("tags") == [["p", "q"], None, ["p"]]
    assert found.kept("meta") == [{"a": 1, "b": [0.5, 2.0]}, None, None]
    assert found.kept("day") == [datetime.datetime(2024, 5, 1), None, None]
    assert found.kept("map")[0] == [("k", 1)]
    assert found.reasons == {
        3: f"kept column n: a value of type number does not fit int64{mend('n', 'double')}",
        4: f"kept column n: a value of type string does not fit int64{mend('n')}",
        5: f"kept column meta: an object has the key 'z', which struct<a: int64, b: list<double>> has not{mend('meta')}",
        6: f"kept column meta: a value of type object does not fit struct<a: int64, b: list<double>>{mend('meta')}",
        7: f"kept column tags: a value of type string does not fit list<string>{mend('tags')}",
        8: "kept column s is not valid Unicode (half of a surrogate pair)",
        9: f"kept column day: a value of type string does not fit timestamp[s]{mend('day')}",
        10: f"kept column day: a value of type number does not fit timestamp[s]{mend('day')}",
        11: f"kept column s: a value of type object does not fit string{mend('s')}",
        12: f"kept column tags: a value of type array does not fit list<string>{mend('tags')}",
        13: f"kept column day: a value of type string does not fit timestamp[s]{mend('day')}",
    }


def test_text_columns_are_joined_and_nulls_left_out(tmp_path: Path) -> None:
    path = put_jsonl(
        tmp_path / "a.jsonl",
        {"title": "a", "body": "b"},
        {"title": None, "body": "b"},
        {"title": None},
        {"title": "", "body": " "},
        {"title": 3, "body": "b"},
    )
    found = read(path, plan_of(text=["title", "body"], separator=" | "))
    assert found.texts == ["a | b", "b", " |  "]
    assert found.reasons == {2: "text is null", 4: "text column title is not a string but number"}


def test_partition_values_stand_in_for_keys_the_line_lacks(tmp_path: Path) -> None:
    path = put_jsonl(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "lang": "fr"}, {"text": "c", "lang": None})
    piece = slice_of(path, partitions=(("lang", "de"), ("year", "2024"), ("none", None)))
    found = read(piece, plan_of({"lang": pa.string(), "year": pa.int32(), "none": pa.string()}))
    assert found.kept("lang") == ["de", "fr", None]
    assert found.kept("year") == [2024] * 3
    assert found.kept("none") == [None] * 3


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_objects_without_rows(tmp_path: Path, data: bytes) -> None:
    assert [row for row in read(put(tmp_path / "a.jsonl", data), plan_of()).quarantined if data[:1] != b"\xef"] == []


def test_byte_order_mark_and_missing_last_line_end(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}'
    assert read(put(tmp_path / "a.jsonl", data), plan_of()).texts == ["a", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2"])
def test_compressed(tmp_path: Path, suffix: str) -> None:
    lines = b"".join(b'{"text": "row %d"}\n' % number for number in range(5000))
    path = put(tmp_path / f"a.jsonl{suffix}", lines)
    assert read(path, plan_of()).rows_read == 5000
    path.write_bytes(COMPRESS[suffix](lines) + COMPRESS[suffix](lines))  # concatenated members are one stream
    assert len(set(read(path, plan_of()).ids)) == 10_000

    whole = COMPRESS[suffix](lines)
    for name, data in {
        "cut": whole[:-3], "half": whole[: len(whole) // 2], "flip": whole[:-6] + bytes([whole[-6] ^ 255]) + whole[-5:],
        "plain": lines, "empty": b"",
    }.items():  # fmt: skip
        if (suffix, name) == (".zst", "flip"):
            continue  # pyarrow writes zstd frames without a checksum
        path.write_bytes(data)
        with pytest.raises(ObjectError, match=r"upload it again|is not compressed, although") as error:
            read(path, plan_of())
        assert error.value.object_uri == path.as_uri()


def test_truncated_gzip_tells_how_far_it_came(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{number} {hash(str(number))}"}) for number in range(60_000)]
    path = put(tmp_path / "a.jsonl.gz", "\n".join(rows).encode())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ObjectError, match=r"truncated or corrupt gzip after \d+ rows") as error:
        read(path, plan_of())
    assert 10_000 < error.value.rows_read < 60_000


def test_rows_without_numbers_are_named_by_their_byte(tmp_path: Path) -> None:
    path = put_jsonl(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 2, "text": "b"}, "{bad", {"id": 3, "text": None})
    piece = slice_of(path, 20)
    found = read(piece, plan_of(id="id"))
    assert found.ids == ["2"]
    assert found.documents[0]["row"] is None
    assert [row.row for row in found.quarantined] == [None, None]
    assert [row.reason.rpartition(", ")[2] for row in found.quarantined] == ["at byte 46", "at byte 51"]
    with pytest.raises(ValueError, match="first_row"):
        read(piece, plan_of())


LINES = st.lists(
    st.one_of(
        st.text(max_size=8).map(lambda text: json.dumps({"text": text})),
        st.sampled_from(["", "  ", "{", "[]", '{"text": null}', '{"text": "漢🎉"}']),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.lists(st.integers(0, 400), max_size=6))
def test_byte_ranges_tile_the_object_wherever_they_are_cut(
    tmp_path: Path, lines: list[str], end: str, bom: bool, cuts: list[int]
) -> None:
    data = b"\xef\xbb\xbf" * bom + end.join(lines).encode()
    path = put(tmp_path / "a.jsonl", data)
    if not data:
        return
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    whole = read(path, plan_of(id="text"))
    pieces = [slice_of(path, start, stop) for start, stop in itertools.pairwise(borders)]
    cut = read(pieces, plan_of(id="text"))
    assert cut.texts == whole.texts
    assert cut.rows_read == whole.rows_read
    assert [row.id for row in cut.quarantined] == [row.id for row in whole.quarantined]

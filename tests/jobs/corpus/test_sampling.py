"""Formats without a schema: what a sample did not show is read all the same, or quarantined with the mend that keeps it."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.corpus.discovery import discover
from jobs.corpus.sampling import SAMPLE_BYTES
from tests.jobs.source_files import config, jsonl
from tests.workers.planned_files import Planned, read_corpus
from workers.errors import UsageError

FILLER = "x y z " * 150


def records(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"text {number} {FILLER}"} | columns for number in range(count)]


def kept(planned: Planned, name: str, column: str) -> list[Any]:
    return [row[f"keep.{column}"] for row in planned.rows_of(name)]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json"])
@pytest.mark.parametrize("row", [-1, 3000])
def test_a_key_that_no_sample_shows_is_read(tmp_path: Path, suffix: str, row: int) -> None:
    rows = records(5000)
    rows[row]["licence"] = "CC0"
    path = tmp_path / f"a.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        jsonl(path, rows)
    planned = read_corpus(tmp_path, id="id", keep=["licence"])
    assert kept(planned, path.name, "licence") == [item.get("licence") for item in rows]
    assert not planned.quarantined
    seen = suffix == "jsonl" and row == -1
    assert any("no sampled record has licence" in warning for warning in planned.corpus.warnings) is not seen


def test_keys_that_are_data_make_a_map(tmp_path: Path) -> None:
    rows = [item | {"votes": {f"user{n}": n, f"user{n + 1}": 1}} for n, item in enumerate(records(400))]
    jsonl(tmp_path / "a.jsonl", rows)
    planned = read_corpus(tmp_path, id="id", keep=["votes"])
    assert planned.corpus.read_plan.keep.field("votes").type == pa.map_(pa.string(), pa.int64())
    assert list(map(dict, kept(planned, "a.jsonl", "votes"))) == [item["votes"] for item in rows]
    assert not planned.quarantined


def test_keys_that_are_data_with_values_of_several_kinds_make_json(tmp_path: Path) -> None:
    rows = [item | {"by": {f"k{n}": n if n % 3 else [str(n)]}} for n, item in enumerate(records(40))]
    jsonl(tmp_path / "a.jsonl", rows)
    planned = read_corpus(tmp_path, id="id", keep=["by"])
    assert [json.loads(text) for text in kept(planned, "a.jsonl", "by")] == [item["by"] for item in rows]
    assert any("JSON values of by are of several kinds" in warning for warning in planned.corpus.warnings)


def test_kinds_that_change_at_the_end_of_a_large_object_are_seen(tmp_path: Path) -> None:
    rows = records(5000, score=1, meta={"source": "web"}, date=None)
    rows[-1] |= {"score": 0.5}
    rows[-2] |= {"meta": {"source": "web", "target": "/a"}}
    rows[-3] |= {"date": 2024}
    jsonl(tmp_path / "a.jsonl", rows)
    planned = read_corpus(tmp_path, id="id", keep=["score", "meta", "date"])
    assert not planned.quarantined
    assert kept(planned, "a.jsonl", "score")[-2:] == [1.0, 0.5]
    assert kept(planned, "a.jsonl", "date")[-4:] == [None, 2024, None, None]
    assert kept(planned, "a.jsonl", "meta")[-2:] == [{"source": "web", "target": "/a"}, {"source": "web", "target": None}]


def test_kinds_that_change_unseen_are_quarantined_with_the_mend_which_keeps_them(tmp_path: Path) -> None:
    rows = records(5000, score=1, meta={"source": "web"}, date=None)
    rows[3000] |= {"score": 0.5}
    rows[3001] |= {"meta": {"source": "web", "target": "/a"}}
    rows[3002] |= {"date": 2024}
    jsonl(tmp_path / "a.jsonl.gz", rows)
    settings: dict[str, Any] = {"id": "id", "keep": ["score", "meta", "date"]}
    planned = read_corpus(tmp_path, **settings)
    assert planned.reasons("a.jsonl.gz") == {
        3000: "kept column score: a value of type number does not fit int64; corpus.schema: {score: double} keeps it",
        3001: "kept column meta: an object has the key 'target', which struct<source: string> has not; "
        "corpus.schema: {meta: json} keeps it",
        3002: "kept column date: a value of type number does not fit string; corpus.schema: {date: json} keeps it",
    }
    mended = read_corpus(tmp_path, schema={"score": "double", "meta": "json", "date": "int64"}, **settings)
    assert not mended.quarantined
    assert kept(mended, "a.jsonl.gz", "score") == [item["score"] for item in rows]
    assert [json.loads(text) for text in kept(mended, "a.jsonl.gz", "meta")] == [item["meta"] for item in rows]
    assert kept(mended, "a.jsonl.gz", "date") == [item["date"] for item in rows]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json"])
@pytest.mark.parametrize("most", [300_000, 9_000_000])
def test_a_long_first_record_does_not_blind_the_sample(tmp_path: Path, suffix: str, most: int) -> None:
    rows = [{"id": n, "text": f"text {n}", "year": 1900 + n, "tags": ["a"], "public": True} for n in range(5)]
    rows[0]["text"] = "all work and no play " * (most // 20)
    assert most > SAMPLE_BYTES
    path = tmp_path / f"a.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        jsonl(path, rows)
    planned = read_corpus(tmp_path, id="id", keep=["year", "tags", "public"])
    kinds = {field.name: field.type for field in planned.corpus.read_plan.keep}
    assert kinds == {"year": pa.int64(), "tags": pa.list_(pa.string()), "public": pa.bool_()}
    assert kept(planned, path.name, "year") == [1900, 1901, 1902, 1903, 1904]
    with pytest.raises(UsageError, match=r"corpus\.keep: no object has a column yaer; did you mean year\?"):
        discover(config(tmp_path, id="id", keep=["yaer"]))  # of each object every record was seen


def test_a_sample_ends_where_no_record_can_be(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 3_000_000 + b'"}\n{"text": "one", "n": 1}\n')
    planned = read_corpus(tmp_path, keep=["n"], max_text_bytes=100_000)
    assert kept(planned, "a.jsonl", "n") == [1]
    assert "line is too long" in planned.reasons("a.jsonl")[0]


def test_samples_of_two_nights_that_differ_are_no_drift(tmp_path: Path) -> None:
    """Each JSON object's type is a guess: one of them cannot be wrong by the others."""
    jsonl(tmp_path / "a.jsonl", [{"text": "x", "n": 1, "by": {f"k{n}": n for n in range(20)}} for _ in range(3)])
    jsonl(tmp_path / "b.jsonl", [{"text": "x", "n": 0.5, "by": {f"j{n}": n for n in range(300)}} for _ in range(3)])
    planned = read_corpus(tmp_path, keep=["n", "by"])
    assert not planned.corpus.drifted
    assert not planned.quarantined


LONG = "all work and no play " * 8000
HEADS = {
    "no_header_long_text.csv": f'"{LONG}",0\n"{LONG}",1\n',
    "open_quote_in_header.csv": 'id,"text\n' + "".join(f"{n},{'words ' * 30}\n" for n in range(2000)),
    "quote_first.csv": '"' + "x" * 140_000,
    "quote_first_and_long.csv": '"' + "x" * 3_000_000,
    "long_header_name.csv": f'id,text,"{LONG}"\n1,one,x\n',
    "cr_in_header.csv": "id,te\rxt\n1,one\n",
    "surrogate_key.jsonl": '{"id": 1, "text": "one", "\\ud83d": 1}\n',
    "surrogate_key_2.jsonl": '{"id": 1, "text": "one", "a\\udc00b": null}\n{"id": 2, "text": "two"}\n',
    "surrogate_keys.json": '[{"id": 1, "text": "one", "\\ud83d": {"\\ud83d": 1}}]',
    "many_keys.jsonl": "{" + ", ".join(f'"k{n}": {n}' for n in range(20000)) + ', "id": 1, "text": "one"}\n',
    "blank_first.csv": "\n\nid,text\n1,one\n",
    "only_header.csv": "id,text",
    "bom_quoted.csv": '\ufeff"id","text"\n"1","one"\n',
    "empty_names.csv": ",id,text,,\n0,1,one,,\n",
}


UNREADABLE = ("open_quote_in_header.csv", "quote_first.csv", "quote_first_and_long.csv", "cr_in_header.csv")


@pytest.mark.parametrize("name", HEADS)
def test_no_first_bytes_end_in_a_traceback(tmp_path: Path, name: str) -> None:
    from jobs.corpus.metadata_cache import load_metadata, save_metadata
    from workers.storage.store import Store

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(HEADS[name].encode())
    if name == "no_header_long_text.csv":
        with pytest.raises(UsageError, match="no object has a column text; known columns: all work") as error:
            discover(config(tmp_path / "in", id="id"))
        assert len(str(error.value)) < 400
        return
    if name in UNREADABLE:  # as every object here is: nothing is started
        with pytest.raises(UsageError, match=f"{name}: the header cannot be read") as error:
            discover(config(tmp_path / "in", id="id"))
        assert len(str(error.value)) < 400
        jsonl(tmp_path / "in" / "good.jsonl", [{"id": 7, "text": "seven"}])
        planned = read_corpus(tmp_path / "in", id="id", max_text_bytes=1 << 20)
        assert list(planned.lost) == [name]
        assert [row["text"] for row in planned.rows_of("good.jsonl")] == ["seven"]
        assert any(name in warning and "the header cannot be read" in warning for warning in planned.corpus.warnings)
        return
    planned = read_corpus(tmp_path / "in", id="id", max_text_bytes=1 << 20)
    save_metadata(Store(str(tmp_path / "out"), {}), "o.parquet", planned.corpus.objects, planned.corpus.columns)
    assert load_metadata(Store(str(tmp_path / "out"), {}), "o.parquet")
    assert not planned.lost
    assert len(planned.documents) == planned.rows_read == (2 if "_2" in name else 0 if name == "only_header.csv" else 1)


def test_kept_objects_with_half_a_surrogate_pair_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "by": {"\\ud83d": 1}}\n{"text": "two", "by": {"a": 1}}\n')
    planned = read_corpus(tmp_path, keep=["by"])
    assert kept(planned, "a.jsonl", "by") == ['{"a": 1}']
    assert planned.reasons("a.jsonl") == {0: "kept column by is not valid Unicode (half of a surrogate pair)"}


def test_samples_of_an_earlier_version_are_taken_again(tmp_path: Path) -> None:
    """They may have been blind: what they say of a column's type is not believed."""
    from jobs.corpus import metadata_cache
    from jobs.corpus.metadata_cache import load_metadata, save_metadata
    from workers.storage.store import Store

    jsonl(tmp_path / "in/a.jsonl", [{"text": "x", "year": 1900}])
    store = Store(str(tmp_path / "out"), {})
    corpus = discover(config(tmp_path / "in", keep=["year"]))
    save_metadata(store, "o.parquet", corpus.objects, corpus.columns)
    known = load_metadata(store, "o.parquet")
    assert known is not None
    assert known.get(corpus.objects[0]) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata_cache, "RULES", b"1")
        save_metadata(store, "o.parquet", corpus.objects, corpus.columns)
    assert load_metadata(store, "o.parquet") is None


def test_compressed_records_are_whole_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x", "year": 1}\n'))
    with pytest.raises(UsageError, match=r"no object has a column yaer; did you mean year\?"):
        discover(config(tmp_path, keep=["yaer"]))


def test_dates_in_strings_stay_strings(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [{"text": "x", "day": "2024-01-31"}])
    assert kept(read_corpus(tmp_path, keep=["day"]), "a.jsonl", "day") == ["2024-01-31"]
    stated = read_corpus(tmp_path, keep=["day"], schema={"day": "date32"})
    assert kept(stated, "a.jsonl", "day") == [datetime.date(2024, 1, 31)]


def test_a_column_that_the_first_samples_lack_is_looked_for_in_more_objects(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02d}.csv").write_text(
            "text,year\nx,1900\n" if number != 41 else "text,year,licence\nx,1900,CC0\n"
        )
    assert kept(read_corpus(tmp_path, keep=["licence"]), "41.csv", "licence") == ["CC0"]
    with pytest.raises(UsageError, match=r"corpus\.keep: no object has a column yaer; did you mean year\?"):
        discover(config(tmp_path, keep=["yaer"]))

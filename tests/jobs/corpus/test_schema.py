"""Which schema a corpus gets from footers and samples; which objects drift, which settings are refused."""

from __future__ import annotations

import bz2
import gzip
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.corpus import footers, sampling
from jobs.corpus.discovery import discover
from jobs.planning.sharding import cut
from tests.jobs.source_files import TEXTS, config, jsonl, parquet
from workers.errors import ObjectError, UsageError
from workers.reading.first_look import decompressed_head
from workers.reading.reader import read_windows
from workers.records.shard import Shard


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.uint32(), pa.int8()], pa.int64()),
        ([pa.int64(), pa.string()], pa.string()),
        ([pa.uint64(), pa.uint64()], pa.string()),  # beyond int64: text holds them all
        ([pa.string(), pa.large_string()], pa.string()),
    ],
)
def test_id_type(tmp_path: Path, kinds: list[pa.DataType], expected: pa.DataType) -> None:
    for number, kind in enumerate(kinds):
        parquet(tmp_path / f"{number}.parquet", {"id": pa.array(["1", "2", "3"]).cast(kind), "text": TEXTS})
    corpus = discover(config(tmp_path, id="id"))
    assert corpus.read_plan.id_type == expected
    assert not corpus.drifted


def test_integer_ids_become_text_where_jsonl_is_among_them(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"id": [1, 2, 3], "text": TEXTS})
    jsonl(tmp_path / "b.jsonl", [{"id": 4, "text": "x"}])
    assert discover(config(tmp_path, id="id")).read_plan.id_type == pa.string()


def test_kept_types_are_unified_over_footers(tmp_path: Path) -> None:
    small = {
        "n": pa.array([1, 2, 3], pa.int16()),
        "tag": pa.array(["a", "b", "a"]).dictionary_encode(),
        "empty": pa.nulls(3),
    }
    large = {"n": pa.array([1.5, 2, 3]), "tag": pa.array(["c"] * 3, pa.large_string()), "empty": ["q"] * 3}
    parquet(tmp_path / "a.parquet", {"text": TEXTS, "who": [{"name": "x", "age": 1}] * 3} | small)
    parquet(tmp_path / "b.parquet", {"text": TEXTS, "who": [{"name": "y", "city": "z"}] * 3} | large)
    plan = discover(config(tmp_path, keep=["n", "tag", "who", "empty"])).read_plan
    who = pa.struct([("name", pa.string()), ("age", pa.int64()), ("city", pa.string())])
    assert {field.name: field.type for field in plan.keep} == {
        "n": pa.float64(),
        "tag": pa.string(),
        "empty": pa.string(),
        "who": who,
    }


def test_kept_column_of_another_type_in_one_object_is_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        parquet(tmp_path / f"{name}.parquet", {"text": TEXTS, "meta": ["x"] * 3 if name != "b" else [[1]] * 3})
    parquet(tmp_path / "d.parquet", {"text": TEXTS})
    corpus = discover(config(tmp_path, keep=["meta"]))
    assert corpus.read_plan.keep.field("meta").type == pa.string()
    assert [uri.rpartition("/")[2] for uri in corpus.drifted] == ["b.parquet"]
    drift, remark = (record.message for record in caplog.records)
    assert "b.parquet" in drift
    assert "list<" in drift
    assert "string" in drift
    assert "d.parquet" in remark
    assert "null in its rows" in remark


def test_text_column_missing_or_not_text_in_some_objects_is_drift(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"text": pa.array(TEXTS, pa.string_view())})
    parquet(tmp_path / "b.parquet", {"body": TEXTS})
    parquet(tmp_path / "c.parquet", {"text": [1, 2, 3]})
    (tmp_path / "d.csv").write_text("id,body\n1,x\n")
    corpus = discover(config(tmp_path))
    assert [uri.rpartition("/")[2] for uri in corpus.drifted] == ["b.parquet", "c.parquet", "d.csv"]
    assert "has no column text" in corpus.warnings[0]
    assert "column text (corpus.text) is int64" in corpus.warnings[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": "txt"}, "corpus.text: no object has a column txt; did you mean text?"),
        ({"id": "key"}, "corpus.id: no object has a column key; known columns: id, text, vec"),
        ({"keep": ["lnag"]}, "corpus.keep: no object has a column lnag"),
        ({"text": "vec"}, "corpus.text: column vec is list<"),
        ({"id": "vec"}, "corpus.id: column vec is list<"),
        ({"keep": ["num_tokens"]}, "corpus.keep: num_tokens is a column of the output itself"),
        ({"keep": ["vec", "vec"]}, "corpus.keep: vec stands 2 times"),
    ],
)
def test_columns_that_cannot_work_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    parquet(tmp_path / "a.parquet", {"id": [1], "text": ["x"], "vec": [[1.0]]})
    with pytest.raises(UsageError) as error:
        discover(config(tmp_path, **settings))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", '{"id": 1, "body": "x"}\n'), ("a.csv", "id,body\n1,x\n"), ("a.txt", "x\n")]
)
def test_text_column_in_no_sample_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=r"no object has a column txet; .*(body|text)"):
        discover(config(tmp_path, text="txet"))


def test_jsonl_types_come_from_a_sample_spread_over_the_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        record = {"text": "x", "n": number, "tags": ["a"], "who": {"name": "x", "none": []}, "void": None}
        record |= {"late": 1.5 if number >= 35 else None, "mixed": "n/a" if number == 0 else number}
        jsonl(tmp_path / f"{number:02d}.jsonl{'.gz' if number % 2 else ''}", [record])
    opened: list[str] = []

    def recorded(uri: str, start: int, stop: int, options: dict[str, Any]) -> bytes:
        opened.append(uri)
        return footers.read_range(uri, start, stop, options)

    monkeypatch.setattr(sampling, "read_range", recorded)
    keep = ["n", "tags", "who", "late", "mixed", "void"]
    corpus = discover(config(tmp_path, keep=keep[:-1]))
    assert len(opened) == sampling.SAMPLE_OBJECTS
    kinds = {field.name: field.type for field in corpus.read_plan.keep}
    assert kinds["n"] == pa.int64()
    assert kinds["tags"] == pa.list_(pa.string())
    assert kinds["who"] == pa.struct([("name", pa.string()), ("none", pa.list_(pa.string()))])
    assert kinds["late"] == pa.float64()
    assert kinds["mixed"] == pa.json_()
    assert "JSON values of mixed are of several kinds (int, str); taken as JSON text" in corpus.warnings[0]
    assert discover(config(tmp_path, keep=["void"])).read_plan.keep.field("void").type == pa.string()


def test_sample_survives_cut_and_broken_streams(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d", "n": %d}\n' % (number, number) for number in range(200_000))
    for codec, data in (
        ("gzip", gzip.compress(lines)),
        ("bz2", bz2.compress(lines)),
        ("zstd", pa.compress(lines, "zstd", asbytes=True)),
    ):
        assert lines.startswith(decompressed_head(data, codec, 100_000)), codec
        assert len(decompressed_head(data, codec, 100_000)) == 100_000, codec
        cut_head = decompressed_head(data[: len(data) // 2], codec, 1 << 30)
        assert lines.startswith(cut_head), codec
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip at all")
    jsonl(tmp_path / "b.jsonl", [{"text": "x"}])
    assert not discover(config(tmp_path)).drifted


def test_drift_is_what_the_readers_refuse(tmp_path: Path) -> None:
    good = {"id": [1, 2, 3], "text": TEXTS, "n": [1, 2, 3]}
    parquet(tmp_path / "a.parquet", good)
    parquet(tmp_path / "b.parquet", good | {"n": [{"x": 1}] * 3})
    parquet(tmp_path / "c.parquet", good | {"n": ["1", "2", "x"]})  # a text is no number
    parquet(tmp_path / "d.parquet", {"id": [1], "n": [1]})
    parquet(tmp_path / "e.parquet", {"text": TEXTS})
    parquet(tmp_path / "f.parquet", good | {"text": [1.5] * 3})
    parquet(tmp_path / "g.parquet", {"id": [9], "text": ["x"], "n": pa.array([7], pa.uint8()).dictionary_encode()})
    corpus = discover(config(tmp_path, id="id", keep=["n"]))
    refused = []
    for shard in cut(corpus, 1 << 20, id_given=True):
        for piece in shard.slices:
            try:
                list(read_windows(Shard(0, (piece,), 0), corpus.read_plan, {}))
            except ObjectError:
                refused.append(piece.uri)
    assert refused == list(corpus.drifted)
    assert [uri[-9] for uri in refused] == ["b", "c", "d", "e", "f"]
    assert any("c.parquet: column n (corpus.keep) is string, elsewhere int64" in warning for warning in corpus.warnings)


def test_a_widened_column_is_named_with_both_types(tmp_path: Path) -> None:
    for name, kind in (("a", pa.int64()), ("b", pa.int32()), ("c", pa.int32()), ("d", pa.float64()), ("e", pa.null())):
        values = pa.nulls(3) if pa.types.is_null(kind) else pa.array([1, 2, 3]).cast(kind)
        parquet(tmp_path / f"{name}.parquet", {"text": TEXTS, "n": values})
    corpus = discover(config(tmp_path, keep=["n"]))
    assert corpus.read_plan.keep.field("n").type == pa.float64()
    wide, narrow = corpus.warnings
    assert "b.parquet and 1 more objects: column n (corpus.keep) is int32, published as double: " in narrow + wide
    assert "a.parquet: column n (corpus.keep) is int64, published as double: " in narrow + wide
    assert "rows whose value that type does not hold exactly will be quarantined" in wide


def test_a_footer_decides_and_a_sample_widens(tmp_path: Path) -> None:
    stamps = pa.array([1, 2, 3], pa.timestamp("us"))
    parquet(tmp_path / "z.parquet", {"text": TEXTS, "n": [1, 2, 3], "at": stamps, "flag": [True, False, None]})
    for name in "abc":
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "x", "n": 1.5, "at": 1700000000, "flag": "yes"}])
    (tmp_path / "d.csv").write_text("text,n,at,flag\nx,1,2024-01-01T00:00:00,true\n")
    corpus = discover(config(tmp_path, keep=["n", "at", "flag"]))
    kinds = {field.name: field.type for field in corpus.read_plan.keep}
    assert kinds == {"n": pa.float64(), "at": pa.timestamp("us"), "flag": pa.bool_()}
    assert not corpus.drifted
    remarks = "\n".join(corpus.warnings)
    assert "column at (corpus.keep) is int64 by a sample, published as timestamp[us]" in remarks
    assert "d.csv: column flag (corpus.keep) is text, published as bool" in remarks


def test_text_that_can_be_no_list_is_drift(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"text": TEXTS, "tags": [["x"], [], None]})
    (tmp_path / "b.csv").write_text("text,tags\nx,y\n")
    corpus = discover(config(tmp_path, keep=["tags"]))
    assert [uri[-5:] for uri in corpus.drifted] == ["b.csv"]
    assert "column tags (corpus.keep) is text, elsewhere list<" in corpus.warnings[0]


def test_ids_whose_text_form_may_surprise_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"id": [1.0, None, 3.0], "text": TEXTS})
    parquet(tmp_path / "b.parquet", {"id": pa.array([b"x" * 16] * 3, pa.binary(16)), "text": TEXTS})
    doubles, raw = discover(config(tmp_path, id="id")).warnings
    assert "a.parquet: column id (corpus.id) is double: ids are written as 1.0" in doubles
    assert "b.parquet: column id (corpus.id) is fixed_size_binary[16]: ids that are not UTF-8" in raw


@pytest.mark.parametrize("levels", [40, 480, 900, 990])  # of the last Python's own parser says that it is too deep
def test_values_nested_without_end_are_kept_as_text(tmp_path: Path, levels: int) -> None:
    """JSON may nest deeper than Parquet's readers follow, and than Python does: neither driver nor replica falls over it."""
    deep = '{"a":' * levels + "1" + "}" * levels
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "x", "tags": {deep}}}\n{{"text": "y", "tags": {{"a": 1}}}}\n')
    corpus = discover(config(tmp_path, keep=["tags"]))
    kind = corpus.read_plan.keep.field("tags").type
    if levels < 950:
        assert kind == pa.json_()
        assert "taken as JSON text" in corpus.warnings[0]
    windows = [
        window for shard in cut(corpus, 1 << 20, id_given=False) for window in read_windows(shard, corpus.read_plan, {})
    ]
    kept = [value for window in windows for value in window.table.column("keep.tags").to_pylist()]
    assert kept[-1] == ('{"a": 1}' if kind == pa.json_() else {"a": 1})
    lost = [row.reason for window in windows for row in window.quarantined]
    assert len(kept) + len(lost) == 2
    assert kept[0].replace(" ", "") == deep if not lost else re.search("kept column tags|nested too deeply", lost[0])

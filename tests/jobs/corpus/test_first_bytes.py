"""Objects that are not what their names say are named before anything starts, and their reader says the same of them."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus import first_bytes
from jobs.corpus.discovery import Corpus, discover
from jobs.planning.sharding import cut
from tests.compat.source_server import serve
from tests.jobs.source_files import TEXTS, config, jsonl, parquet
from workers.config import CorpusConfig
from workers.errors import ObjectError, UsageError
from workers.reading.reader import read_windows

ROWS = [{"id": f"{at}", "text": text} for at, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def problems(corpus: Corpus) -> dict[str, str]:
    return {source.info.uri.rpartition("/")[2]: source.problem for source in corpus.objects if source.problem}


def misnamed(folder: Path) -> None:
    """One good object, and one of each kind that is not what its name says."""
    jsonl(folder / "good.jsonl", ROWS)
    (folder / "gzip.jsonl").write_bytes(gzip.compress(LINES))
    (folder / "plain.jsonl.gz").write_bytes(LINES)
    (folder / "twice.jsonl.gz").write_bytes(gzip.compress(gzip.compress(LINES)))
    (folder / "wide.jsonl").write_bytes(LINES.decode().encode("utf-16"))
    (folder / "array.jsonl").write_text(json.dumps(ROWS, indent=1))
    (folder / "mac.jsonl").write_bytes(LINES.replace(b"\n", b"\r"))
    (folder / "semicolon.csv").write_text("id;text\n0;x\n")
    pq.write_table(pa.table({"id": ["0"], "text": ["x"]}), folder / "table.jsonl")
    (folder / "lines.parquet").write_bytes(gzip.compress(LINES))
    with zipfile.ZipFile(folder / "zipped.txt", "w") as archive:
        archive.writestr("a.txt", LINES)


WORDS = {
    "gzip.jsonl": "is gzip-compressed, although its name says otherwise; name it .gz",
    "plain.jsonl.gz": "is not compressed, although its name ends with .gz; take .gz off its name",
    "twice.jsonl.gz": "is gzip-compressed, although its name says otherwise; name it .gz",
    "wide.jsonl": "is text in UTF-16, although its name says otherwise; convert it: iconv -f UTF-16 -t UTF-8",
    "array.jsonl": "holds one JSON array, not one JSON object a line; set corpus.format: json",
    "mac.jsonl": "its lines end with CR alone; convert it, e.g. by `tr '\\r' '\\n'`",
    "semicolon.csv": "has no column 'id', only 'id;text'; it is delimited by ';': set corpus.csv.delimiter: ';'",
    "table.jsonl": "is Parquet, although its name says otherwise; name it .parquet, or set corpus.format: parquet",
    "lines.parquet": "is gzip-compressed, although its name says otherwise; name it .gz",
    "zipped.txt": "is a zip archive, although its name says otherwise; unpack it",
}


def test_each_is_named_before_the_start_and_the_good_one_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    misnamed(tmp_path)
    corpus = discover(config(tmp_path, id="id"))
    assert problems(corpus) == WORDS
    warned = [record.message for record in caplog.records]
    for name, problem in WORDS.items():
        assert sum(f"/{name}: {problem}; it will be quarantined" in message for message in warned) == 1


def test_the_reader_says_the_same_and_neighbours_are_read(tmp_path: Path) -> None:
    misnamed(tmp_path)
    corpus = discover(config(tmp_path, id="id"))
    (shard,) = cut(corpus, 1 << 20, id_given=True)
    exclude: dict[str, str] = {}
    for _ in range(len(WORDS)):
        with pytest.raises(ObjectError) as caught:
            list(read_windows(shard, corpus.read_plan, exclude))
        exclude[caught.value.object_uri] = caught.value.reason
    texts = [row["text"] for window in read_windows(shard, corpus.read_plan, exclude) for row in window.table.to_pylist()]
    assert texts == TEXTS
    assert {uri.rpartition("/")[2]: reason for uri, reason in exclude.items()} == WORDS


@pytest.mark.parametrize("name", [*WORDS])
def test_a_corpus_of_nothing_else_is_refused(tmp_path: Path, name: str) -> None:
    misnamed(tmp_path)
    if name.endswith(".parquet"):
        pytest.skip("an object with a footer is quarantined")
    with pytest.raises(UsageError) as caught:
        discover(config(tmp_path / name, id="id"))
    assert str(caught.value) == f"corpus.uri file://{tmp_path}/{name}: {WORDS[name]}"


def test_large_objects_with_a_problem_are_not_split(tmp_path: Path) -> None:
    jsonl(tmp_path / "good.jsonl", ROWS)
    (tmp_path / "wide.jsonl").write_bytes((LINES * 1000).decode().encode("utf-16"))
    shards = cut(discover(config(tmp_path)), 1024, id_given=False)
    assert [piece.start for shard in shards for piece in shard.slices if "wide" in piece.uri] == [0]


def test_every_object_is_looked_at_by_one_request_and_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        jsonl(tmp_path / f"{number:02d}.jsonl", ROWS)
    (tmp_path / "empty.jsonl").touch()
    parquet(tmp_path / "a.parquet", {"text": TEXTS})
    asked: list[str] = []
    read_range = first_bytes.read_range

    def recorded(uri: str, start: int, stop: int, options: Mapping[str, Any]) -> bytes:
        asked.append(uri.rpartition("/")[2])
        return read_range(uri, start, stop, options)

    monkeypatch.setattr(first_bytes, "read_range", recorded)
    discover(config(tmp_path))
    assert sorted(asked) == [f"{number:02d}.jsonl" for number in range(40)]


def test_files_that_describe_a_data_set_are_passed_over(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"id": [1, 2, 3], "text": TEXTS})
    for name in ("dataset_infos.json", "dataset_info.json", "state.json"):
        (tmp_path / name).write_text(json.dumps({"default": {}}, indent=1))
    corpus = discover(config(tmp_path, id="id"))
    assert [source.info.uri.rpartition("/")[2] for source in corpus.objects] == ["a.parquet"]
    assert corpus.read_plan.id_type == pa.int64()
    (tmp_path / "dataset_info.json").unlink()
    assert len(discover(config(tmp_path, id="id")).objects) == 2, "a state.json of something else"


def test_a_table_is_refused_and_read_knowingly(tmp_path: Path) -> None:
    parquet(tmp_path / "delta/a.parquet", {"text": TEXTS})
    (tmp_path / "delta/_delta_log").mkdir()
    with pytest.raises(
        UsageError, match=r"delta: is a Delta table: .*deleted or replaced; set corpus\.table: delta, or set corpus\.format"
    ):
        discover(config(tmp_path))
    assert discover(config(tmp_path, format="parquet")).rows == 3
    parquet(tmp_path / "iceberg/data/a.parquet", {"text": TEXTS})
    (tmp_path / "iceberg/metadata").mkdir()
    for name in ("v1.metadata.json", "snap-1.avro"):
        (tmp_path / "iceberg/metadata" / name).touch()
    with pytest.raises(UsageError, match="iceberg: is an Iceberg table"):
        discover(config(tmp_path / "iceberg"))
    known = discover(config(tmp_path / "iceberg", format="parquet"))
    assert (len(known.objects), known.rows) == (1, 3)


@pytest.mark.parametrize("uri", ["lang=en/", "lang=en/y=1/*.parquet", "lang=en/y=1/a.parquet", "", "*/*/*.parquet"])
def test_a_partition_is_a_column_however_it_is_named(tmp_path: Path, uri: str) -> None:
    parquet(tmp_path / "lang=en/y=1/a.parquet", {"text": TEXTS})
    corpus = discover(config(f"{tmp_path}/{uri}", keep=["lang", "y"]))
    assert corpus.objects[0].partitions == (("lang", "en"), ("y", "1"))


S3 = "s3://earlier-version/corpus/"
ARCHIVED = "archived (storage class Glacier or the like), so it cannot be read; restore it, or take it out"


def test_one_object_that_the_store_refuses_is_its_own_fault(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "std::c?versionId=1.jsonl"):
        jsonl(tmp_path / name, ROWS)
    for name in ("d.parquet", "e.parquet"):
        parquet(tmp_path / name, {"id": ["0"], "text": ["x"]})
    with serve(tmp_path) as server:
        server.refused = {"corpus/b.jsonl": "InvalidObjectState", "corpus/e.parquet": "AccessDenied"}
        corpus = discover(CorpusConfig(uri=[S3], id="id", storage_options=server.options))
        found = problems(corpus)
        assert found.pop("b.jsonl") == ARCHIVED
        assert "access denied" in found.pop("e.parquet")
        assert not found
        assert {source.info.uri for source in corpus.objects if source.denied} == {f"{S3}b.jsonl", f"{S3}e.parquet"}
        (shard,) = cut(corpus, 1 << 20, id_given=True)
        exclude: dict[str, str] = {}
        for _ in range(2):
            with pytest.raises(ObjectError) as caught:
                list(read_windows(shard, corpus.read_plan, exclude))
            exclude[caught.value.object_uri] = caught.value.reason
        assert sorted(exclude) == [f"{S3}b.jsonl", f"{S3}e.parquet"]
        windows = list(read_windows(shard, corpus.read_plan, exclude))
        assert sum(window.table.num_rows for window in windows) == 7
        for allowed in ("corpus/b.jsonl", "corpus/e.parquet"):  # size and etag stay: the source is another all the same
            left_out = corpus.source_fingerprint
            del server.refused[allowed]
            corpus = discover(CorpusConfig(uri=[S3], id="id", storage_options=server.options))
            assert corpus.source_fingerprint != left_out
        server.refused = dict.fromkeys(server.objects(), "AccessDenied")
        with pytest.raises(UsageError, match=r"corpus\.uri .*a\.jsonl: access denied .*and so the other 4 objects"):
            discover(CorpusConfig(uri=[S3], id="id", storage_options=server.options))

"""What is listed and which footers are read, what is refused before anything starts."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.corpus import footers
from jobs.corpus.discovery import Corpus, check_partitions, discover
from jobs.driver import preflight
from jobs.planning.sharding import cut
from tests.fuzz.originals import ROWS, originals
from tests.jobs.source_files import TEXTS, config, jsonl, parquet
from workers.config import SourceFormat
from workers.errors import ObjectError, UsageError
from workers.reading.footers.facts import TAIL_BYTES
from workers.reading.reader import read_windows


def names(corpus: Corpus) -> list[str]:
    return [source.info.uri.rpartition("/")[2] for source in corpus.objects]


def test_lists_every_uri_once_in_order_with_the_partitions_of_its_whole_path(tmp_path: Path) -> None:
    parquet(tmp_path / "c/lang=fr%2Fca/day=__HIVE_DEFAULT_PARTITION__/b.parquet", {"text": TEXTS})
    parquet(tmp_path / "c/lang=en/a.parquet", {"text": TEXTS})
    jsonl(tmp_path / "d/part=above=it/z.jsonl.gz", [{"text": "x"}])
    (tmp_path / "c/_SUCCESS").touch()
    here = str(tmp_path)
    corpus = discover(
        config([f"{here}/d/part=above=it/*.gz", f"{here}/c/lang=en/a.parquet", f"{here}/c/", f"{here}/c/lang=*/*.parquet"])
    )
    assert names(corpus) == ["a.parquet", "b.parquet", "z.jsonl.gz"]
    assert [source.partitions for source in corpus.objects] == [
        (("lang", "en"),),
        (("lang", "fr/ca"), ("day", None)),
        (("part", "above=it"),),
    ]
    assert [source.compression for source in corpus.objects] == [None, None, "gzip"]
    assert corpus.objects[2].format is SourceFormat.JSONL
    assert corpus.rows is None


def test_fingerprint_follows_names_sizes_and_contents(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    first = discover(config(tmp_path)).source_fingerprint
    assert discover(config(tmp_path)).source_fingerprint == first
    time.sleep(0.01)
    jsonl(path, [{"text": "y"}])
    changed = discover(config(tmp_path)).source_fingerprint
    path.rename(tmp_path / "b.jsonl")
    assert len({first, changed, discover(config(tmp_path)).source_fingerprint}) == 3


def test_footers_give_row_groups_and_rows_without_reading_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = parquet(
        tmp_path / "a.parquet", {"text": ["x" * 500 + str(n) for n in range(4000)], "n": range(4000)}, row_group_size=1500
    )
    fetched: list[tuple[int, int]] = []
    read_range = footers.read_range

    def recorded(uri: str, start: int, stop: int, options: dict[str, Any]) -> bytes:
        fetched.append((start, stop))
        return read_range(uri, start, stop, options)

    monkeypatch.setattr(footers, "read_range", recorded)
    corpus = discover(config(tmp_path))
    groups = corpus.objects[0].row_groups
    assert groups is not None
    assert [group.rows for group in groups] == [1500, 1500, 1000]
    assert all(450 * group.rows < group.text_bytes < 550 * group.rows for group in groups)
    assert corpus.rows == 4000
    assert fetched == [(big.stat().st_size - TAIL_BYTES, big.stat().st_size)]


def test_footer_beyond_the_first_request_is_fetched_by_a_second(tmp_path: Path) -> None:
    columns = {f"column_{number:04d}": ["v"] for number in range(1500)} | {"text": ["x"]}
    path = parquet(tmp_path / "a.parquet", columns)
    assert int.from_bytes(path.read_bytes()[-8:-4], "little") > TAIL_BYTES
    assert discover(config(tmp_path)).rows == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "zero bytes"),
        (lambda data: data[:-20], "cut off"),
        (lambda data: data[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1", "claims"),
        (lambda data: data[:-200] + bytes(192) + data[-8:], "cannot be parsed"),
    ],
)
def test_unreadable_footer_is_kept_as_a_problem_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], words: str
) -> None:
    parquet(tmp_path / "a.parquet", {"text": TEXTS})
    broken = parquet(tmp_path / "b.parquet", {"text": TEXTS})
    broken.write_bytes(damage(broken.read_bytes()))
    corpus = discover(config(tmp_path))
    assert words in (corpus.objects[1].problem or "")
    assert corpus.objects[1].rows is None
    assert corpus.rows is None
    (message,) = [record.message for record in caplog.records]
    assert "b.parquet" in message
    assert "write the object again" in message
    (shard,) = cut(corpus, 1 << 20, id_given=False)
    with pytest.raises(ObjectError) as refused:
        list(read_windows(shard, corpus.read_plan, {}))
    planned = corpus.objects[1].problem
    assert refused.value.reason == f"{planned}; upload it again", "the quarantine has the reason that planning gave"


def deadly(data: bytes) -> bytes:
    """A footer that pyarrow parses, and whose columns end the process that asks for them: no longer nullable, says the
    schema, while the counts of nulls and values stand there."""
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    nullable = footer.rindex(b"\x25\x02", 0, footer.index(b"text"))
    return data[: -len(footer)] + footer[: nullable + 1] + b"\x00" + footer[nullable + 2 :]


@pytest.mark.slow
def test_a_footer_that_ends_the_process_is_named_and_its_neighbours_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        parquet(tmp_path / f"{number:02d}.parquet", {"text": TEXTS})
    for number in (3, 17):
        path = tmp_path / f"{number:02d}.parquet"
        path.write_bytes(deadly(path.read_bytes()))
    done = subprocess.run(
        [sys.executable, "-c", TOUCH, str(tmp_path / "03.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGABRT, "a footer that is not deadly proves nothing"
    corpus = discover(config(tmp_path))
    problems = {number: source.problem for number, source in enumerate(corpus.objects) if source.problem}
    assert problems == dict.fromkeys((3, 17), "its footer is corrupt: parsing it ended the process by SIGABRT")
    assert sum(source.rows or 0 for source in corpus.objects) == 38 * 3
    assert [message.partition(".parquet")[0][-2:] for message in caplog.messages] == ["03", "17"]


TOUCH = "import sys, pyarrow.parquet as pq; pq.read_metadata(sys.argv[1]).row_group(0).column(0)"


def number_of(rows: int, at: bytes) -> Callable[[bytes], bytes]:
    """Another number of rows where `at` follows it: 0x16 begins a 64-bit number, of which 2 n is written."""

    def lie(data: bytes) -> bytes:
        return data.replace(bytes([0x16, 2 * len(TEXTS)]) + at, bytes([0x16, 2 * rows]) + at)

    return lie


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (number_of(5, b"\x19"), "promises 5 rows, and 3 in its row groups"),
        (number_of(2, b"\x26"), "has 2 rows, its column 'text' 3 values"),
        (lambda data: data[:4] + data[-8 - int.from_bytes(data[-8:-4], "little") :], "lies outside of the object's data"),
    ],
)
def test_a_footer_that_does_not_agree_with_itself(tmp_path: Path, lie: Callable[[bytes], bytes], words: str) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": TEXTS})
    path.write_bytes(lie(path.read_bytes()))
    corpus = discover(config(tmp_path))
    assert corpus.objects[0].problem is not None
    assert words in corpus.objects[0].problem


def test_footers_of_other_writers_agree_with_themselves(tmp_path: Path) -> None:
    for original in originals().values():
        if original.footer_at < len(original.data):
            (tmp_path / original.name).write_bytes(original.data)
    corpus = discover(config(tmp_path, id="id", keep=["lang", "n"]))
    assert {source.problem for source in corpus.objects} == {None}
    assert {source.rows for source in corpus.objects} == {ROWS}
    assert {source.format for source in corpus.objects} == {"parquet", "arrow", "orc"}
    assert len(corpus.objects) >= 16


def test_empty_line_objects_have_no_rows_and_no_say(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.txt"):
        (tmp_path / name).touch()
    corpus = discover(config(tmp_path))
    assert corpus.rows == 0
    assert len(corpus.objects) == 3
    assert "without a single row" in corpus.warnings[0]


def test_partition_columns(tmp_path: Path) -> None:
    parquet(tmp_path / "lang=en/a.parquet", {"text": TEXTS, "n": [1, 2, 3], "score": [0.5] * 3, "tags": [["a"]] * 3})
    corpus = discover(config(tmp_path, keep=["n", "score", "tags"]), ["lang", "n"])
    assert corpus.read_plan.keep.names == ["n", "score", "tags", "lang"]
    assert corpus.read_plan.keep.field("lang").type == pa.string()
    assert discover(config(tmp_path, keep=["lang"])).read_plan.keep.field("lang").type == pa.string()
    for column, words in (
        ("score", "is double"),
        ("tags", "is list<"),
        ("text", "neither kept nor"),
        ("id", "neither kept nor"),
    ):
        with pytest.raises(UsageError, match=f"output.partition_by: {column} .*{words}"):
            check_partitions([column], corpus)


def test_nothing_there_and_unknown_names_are_refused(tmp_path: Path) -> None:
    for uri in (tmp_path / "nowhere", tmp_path / "*.parquet"):
        with pytest.raises(UsageError, match=r"corpus\.uri .*no objects there"):
            discover(config(uri))
    (tmp_path / "README.md").touch()
    with pytest.raises(UsageError, match=r"README\.md.*corpus\.format"):
        discover(config(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("listening", [True, False])
def test_unreachable_endpoint_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch, listening: bool) -> None:
    monkeypatch.setattr(preflight, "ENDPOINT_SECONDS", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:  # connects, and never gets an answer
            silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        options = {"endpoint_url": endpoint, "key": "k", "secret": "not-a-secret"}
        with pytest.raises(UsageError) as error:
            discover(config("s3://bucket/corpus/", storage_options=options))
    assert time.monotonic() - began < 30
    assert "corpus.uri: the endpoint does not answer" in str(error.value)
    assert "corpus.storage_options.endpoint_url" in str(error.value)
    assert "not-a-secret" not in str(error.value)


@pytest.mark.s3
def test_on_s3(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    fs = s3fs.S3FileSystem()
    for number in range(5):
        with fs.open(f"{s3_bucket}/corpus/lang=en/{number}.parquet", "wb") as stream:
            pq.write_table(
                pa.table({"id": [number], "text": ["x" * 100_000]}), stream, compression="none", use_dictionary=False
            )
    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **settings: Any) -> Any:
        requests.append(method)
        return await call(self, method, *args, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    corpus = discover(config(f"s3://{s3_bucket}/corpus/", id="id"), ["lang"])
    assert corpus.rows == 5
    assert corpus.objects[3].info.uri == f"s3://{s3_bucket}/corpus/lang=en/3.parquet"
    assert corpus.objects[3].partitions == (("lang", "en"),)
    assert requests.count("get_object") == 5  # one a footer
    with pytest.raises(UsageError, match=r"corpus\.uri .*(bucket|no objects)"):
        discover(config("s3://no-such-bucket-here/corpus/"))
    with pytest.raises(UsageError, match=r"corpus\.uri .*no objects there"):
        discover(config(f"s3://{s3_bucket}/elsewhere/"))
    wrong = {"key": "nobody", "secret": "not-a-secret"}
    with pytest.raises(UsageError, match=r"corpus\.uri .*credentials.*corpus\.storage_options") as error:
        discover(config(f"s3://{s3_bucket}/corpus/", storage_options=wrong))
    assert "not-a-secret" not in str(error.value)

"""Names that try to leave: partition values, folders and keys of the source, links. Nothing is written outside the output.

Through the real planning, reading, writing and publishing; only the vectors are drawn by hand (tests/jobs/nights.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import s3fs

from jobs.embed.job import embed_corpus
from tests.jobs.nights import by_hand, settings
from workers.errors import UsageError
from workers.storage.objects import list_objects
from workers.storage.store import Store

VALUES = [
    "..", ".", "../..", "../../../escaped", "/", "/etc/escaped", "//escaped", "a/../../escaped", "\\..\\..\\escaped",
    "..\\escaped",
    "%2e%2e", "%2e%2e%2fescaped", "..%2Fescaped", "%252e%252e%252fescaped", "..;/escaped", "C:\\escaped", "~/escaped",
    "~root", "x=y", "lang=en", "=", "?", "#", "*", "a b", "tab\there", "line\nbreak", "nul\x00byte", "\u202eescaped",
    "\uff0e\uff0e\uff0fescaped",
    "", None, "v" * 300, "漢" * 120, "__HIVE_DEFAULT_PARTITION__", "$(touch escaped)",
    "`touch escaped`", "file:///escaped",
    "s3://other/escaped", "http://[::1]/", "CON", "-rf", "--delete", ".hidden", "_hidden",
]  # fmt: skip
KEYS = [
    "../escaped.jsonl", "..%2Fescaped.jsonl", "%2e%2e/escaped.jsonl", "a/../../escaped.jsonl", "/double.jsonl",
    "a\\..\\..\\b.jsonl",
    "lang=..%2F..%2Fescaped/a.jsonl", "lang=%2Fetc%2Fescaped/b.jsonl", "lang=..\\..\\escaped/c.jsonl",
    "lang=%252e%252e/d.jsonl",
    "lang=%00nul/e.jsonl", "lang=../f.jsonl", "lang=/g.jsonl", "lang=~/h.jsonl", "lang=a=b=../i.jsonl", "plain.jsonl",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _embedded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)


def _below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.slow
def test_partition_values_stay_below_the_prefix_and_come_back(tmp_path: Path, minilm: Path) -> None:
    place = tmp_path / "deep" / "er"
    (place / "corpus").mkdir(parents=True)
    table = pa.table(
        {"id": [f"d{n}" for n in range(len(VALUES))], "text": [f"text {n}" for n in range(len(VALUES))], "lang": VALUES}
    )
    pq.write_table(table, place / "corpus" / "a.parquet")
    before = _below(tmp_path)
    config = settings(place, minilm, corpus={"keep": ["lang"]}, output={"partition_by": ["lang"]})
    summary = embed_corpus(config)
    assert (summary["published"], summary["documents"]) == (True, len(VALUES))
    made = _below(tmp_path) - before
    assert made, "something is written"
    assert {name for name in made if not name.startswith("deep/er/out/")} == set()
    assert not any(part in ("..", ".") for name in made for part in Path(name).parts)
    found = ds.dataset(
        summary["data"], partitioning=ds.partitioning(pa.schema({"lang": pa.string()}), flavor="hive")
    ).to_table()
    back = dict(zip(found["id"].to_pylist(), found["lang"].to_pylist(), strict=True))
    for number, value in enumerate(VALUES):
        seen = back[f"d{number}"]
        shortened = value is not None and seen is not None and "~" in seen and value.startswith(seen.rpartition("~")[0])
        assert seen == value or shortened, (value, seen)


def _hostile_corpus(fs: s3fs.S3FileSystem, bucket: str) -> dict[str, str]:
    """Key -> id of its one document. Keys are given to the store as they are: clients that tidy them up hide the trap."""
    ids = {}
    for number, name in enumerate(KEYS):
        ids[f"corpus/{name}"] = f"doc-{number}"
        body = json.dumps({"id": f"doc-{number}", "text": f"text {number}"}).encode() + b"\n"
        fs.call_s3("put_object", Bucket=bucket, Key=f"corpus/{name}", Body=body)
    return ids


def _keys(fs: s3fs.S3FileSystem, bucket: str) -> set[str]:
    pages = fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1000)
    return {item["Key"] for item in pages["Contents"]}


@pytest.mark.s3
def test_keys_of_a_bucket_stay_below_the_prefix_and_lose_no_row(s3_bucket: str, minilm: Path) -> None:
    fs = s3fs.S3FileSystem()
    ids = _hostile_corpus(fs, s3_bucket)
    before = _keys(fs, s3_bucket)
    assert before == set(ids), "the store keeps them as they are"
    config = settings(f"s3://{s3_bucket}", minilm, corpus={"keep": ["lang"]}, output={"partition_by": ["lang"]})
    summary = embed_corpus(config)
    made = _keys(fs, s3_bucket) - before
    assert {key for key in made if not key.startswith("out/")} == set()
    assert not any(part in ("..", ".") for key in made for part in key.split("/"))
    fs.invalidate_cache()
    found = ds.dataset(f"{s3_bucket}/out/data/{summary['run_id']}", filesystem=fs, format="parquet").to_table(["id"])
    hidden = {
        "corpus/../escaped.jsonl",
        "corpus/..%2Fescaped.jsonl",
        "corpus/a/../../escaped.jsonl",
    }  # as docs/input.md says
    assert sorted(found["id"].to_pylist()) == sorted(identity for key, identity in ids.items() if key not in hidden)
    assert before <= _keys(fs, s3_bucket), "and the source is as it was"


def test_local_links_are_followed_once(tmp_path: Path, minilm: Path) -> None:
    """As docs/input.md says: a linked folder is a part of the corpus; one that leads round in circles is read once."""
    corpus, disk = tmp_path / "corpus", tmp_path / "disk"
    corpus.mkdir()
    disk.mkdir()
    (disk / "b.jsonl").write_text('{"id": "b", "text": "on another disk"}\n')
    (corpus / "a.jsonl").write_text('{"id": "a", "text": "ours"}\n')
    (corpus / "elsewhere").symlink_to(disk)
    (corpus / "round").symlink_to(corpus)
    listed = [info.uri.rpartition("/")[2] for info in list_objects(str(corpus), {})]
    assert listed == ["a.jsonl", "b.jsonl"]
    summary = embed_corpus(settings(tmp_path, minilm))
    assert (summary["documents"], summary["quarantined_rows"]) == (2, 0)


@pytest.mark.parametrize("target", ["nowhere", "broken.jsonl"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, target: str) -> None:
    """It stands for rows that are missing: to leave it out would be to lose them without a word."""
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "ours"}\n')
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / target)
    with pytest.raises(UsageError, match=r"broken\.jsonl: a link that leads nowhere"):
        list_objects(str(tmp_path), {})


def test_deleting_old_snapshots_does_not_follow_links_out(tmp_path: Path) -> None:
    """A link that somebody put into the output: what it leads to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    store = Store(str(tmp_path / "out"), {})
    store.put("data/run/part.parquet", b"x")
    (tmp_path / "out/data/run/elsewhere").symlink_to(outside)
    for path in store.list("data/run"):
        store.delete(path)
    store.prune("data/run")
    assert (outside / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("uri", ["s3://bucket/../other/", "s3://bucket/a/../../other/", "s3://../other/x"])
def test_an_output_uri_that_leaves_its_bucket(uri: str) -> None:
    """Keys are not paths: `..` in a bucket is a name like any other, and never another bucket."""
    try:
        store = Store(uri, {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:1"})
    except UsageError:
        return
    bucket, key, _ = store._fs.split_path(store._at("x"))
    assert bucket in ("bucket", "..")
    assert uri.removeprefix("s3://").startswith(bucket)
    assert key.endswith("x")

"""Source objects: what a URI names, and that only the planned version is read."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from workers.errors import ObjectChanged, ObjectMissing, TransientError, UsageError
from workers.storage.checksums import WHOLE_BYTES
from workers.storage.client import translated
from workers.storage.objects import ObjectInfo, list_objects, object_key, open_object, stat_object
from workers.storage.store import Store

LARGE = WHOLE_BYTES + 1  # smaller objects are read in one piece
BACKENDS = ["local", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=BACKENDS)
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of a folder with visible, hidden and partitioned objects."""
    match request.param:
        case "s3":
            uri = f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}"
        case "memory":
            uri = f"memory://{uuid.uuid4().hex}"
        case _:
            uri = str(tmp_path / ".hidden parent")
    store = Store(uri, {})
    for path in (
        "c/a.jsonl",
        "c/b.jsonl.gz",
        "c/lang=de/_x=_y/c.jsonl",
        "c/_SUCCESS",
        "c/.tmp/d.jsonl",
        "c/_log/e.jsonl",
        "cc/f.jsonl",
    ):
        store.put(path, path.encode())
    return store.uri


def _names(objects: list[ObjectInfo], corpus: str) -> list[str]:
    return [
        item.uri.removeprefix("file://").replace("memory:///", "memory://").removeprefix(corpus + "/") for item in objects
    ]


def test_a_prefix_names_what_is_below_it_without_hidden_names(corpus: str) -> None:
    wanted = ["c/a.jsonl", "c/b.jsonl.gz", "c/lang=de/_x=_y/c.jsonl"]
    assert _names(list_objects(f"{corpus}/c/", {}), corpus) == wanted
    assert _names(list_objects(f"{corpus}/c", {}), corpus) == wanted


def test_a_glob_names_what_it_matches(corpus: str) -> None:
    assert _names(list_objects(f"{corpus}/c/*.jsonl", {}), corpus) == ["c/a.jsonl"]
    assert _names(list_objects(f"{corpus}/c/**/*.jsonl", {}), corpus) == ["c/a.jsonl", "c/lang=de/_x=_y/c.jsonl"]
    assert _names(list_objects(f"{corpus}/c*/?.jsonl", {}), corpus) == ["c/a.jsonl", "cc/f.jsonl"]


def test_one_object_names_itself_even_hidden(corpus: str) -> None:
    (found,) = list_objects(f"{corpus}/c/_SUCCESS", {})
    assert found == stat_object(f"{corpus}/c/_SUCCESS", {})
    assert found.size == len("c/_SUCCESS")


def test_a_name_with_brackets_is_found_though_it_looks_like_a_glob(corpus: str) -> None:
    Store(corpus, {}).put("c/x[1].jsonl", b"{}")
    assert _names(list_objects(f"{corpus}/c/x[1].jsonl", {}), corpus) == ["c/x[1].jsonl"]


@pytest.mark.parametrize("uri", ["c/*.parquet", "nothing/", "nothing"])
def test_nothing_there_is_said(corpus: str, uri: str) -> None:
    with pytest.raises(FileNotFoundError, match="no objects there"):
        list_objects(f"{corpus}/{uri}", {})


def test_an_object_is_read_as_it_was_listed(corpus: str) -> None:
    for item in list_objects(f"{corpus}/c/", {}):
        with open_object(item.uri, item.size, item.etag, {}) as stream:
            assert stream.read().decode() in item.uri


def test_a_vanished_object_is_named_with_the_mend(corpus: str) -> None:
    item = list_objects(f"{corpus}/c/a.jsonl", {})[0]
    Store(corpus, {}).delete("c/a.jsonl")
    with pytest.raises(ObjectMissing, match=r"c/a\.jsonl: deleted after the run was planned; restore it") as caught:
        open_object(item.uri, item.size, item.etag, {})
    assert caught.value.object_uri == item.uri


def test_a_replaced_object_is_named_with_the_mend(corpus: str) -> None:
    item = list_objects(f"{corpus}/c/a.jsonl", {})[0]
    time.sleep(0.01)
    Store(corpus, {}).put("c/a.jsonl", b"C/A.JSONL")  # the same size
    with pytest.raises(ObjectChanged, match=r"c/a\.jsonl: replaced after the run was planned .*the next run") as caught:
        open_object(item.uri, item.size, item.etag, {})
    assert caught.value.object_uri == item.uri


@pytest.mark.s3
def test_an_object_replaced_while_it_is_read_is_never_read_mixed(s3_bucket: str) -> None:
    store = Store(f"s3://{s3_bucket}/mixed", {})
    store.put("big", b"a" * LARGE)
    item = stat_object(store.uri_of("big"), {})
    with open_object(item.uri, item.size, item.etag, {}, block=64_000) as stream:
        assert stream.read(1000) == b"a" * 1000
        store.put("big", b"b" * LARGE)
        with pytest.raises(TransientError, match=r"mixed/big.*PreconditionFailed"), translated(item.uri):
            stream.read()
    with pytest.raises(ObjectChanged):  # what the next attempt meets
        open_object(item.uri, item.size, item.etag, {})


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_text("text")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").symlink_to(tmp_path / "blobs" / "1")
    (item,) = list_objects(str(tmp_path / "corpus"), {})
    assert item == stat_object(str(tmp_path / "corpus" / "a.txt"), {})
    with open_object(item.uri, item.size, item.etag, {}) as stream:
        assert stream.read() == b"text"


def test_an_unreadable_folder_is_an_error_not_an_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("x")
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"Permission denied.*check credentials, permissions"):
        list_objects(str(tmp_path), {})


@pytest.mark.s3
def test_a_console_folder_marker_is_no_object(s3_bucket: str) -> None:
    store = Store(f"s3://{s3_bucket}/marked", {})
    store._fs.call_s3("put_object", Bucket=s3_bucket, Key="marked/", Body=b"")
    store._fs.call_s3("put_object", Bucket=s3_bucket, Key="marked/sub/", Body=b"")
    store.put("sub/a.jsonl", b"1")
    assert [item.uri for item in list_objects(store.uri + "/", {})] == [store.uri_of("sub/a.jsonl")]
    assert store.list("") == {"sub/a.jsonl": 1}


def test_ids_are_made_of_the_key() -> None:
    assert object_key("s3://bucket/a/b.jsonl") == "a/b.jsonl"
    assert object_key("file:///data/b.jsonl") == object_key("/data/b.jsonl") == "/data/b.jsonl"

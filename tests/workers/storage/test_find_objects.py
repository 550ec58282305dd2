"""Which objects a URI names: odd names, tables, archives, the web."""

from __future__ import annotations

import functools
import os
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from workers.errors import AccessDenied, ObjectError, TransientError, UsageError
from workers.records.shard import ObjectSlice
from workers.storage.objects import explore, list_objects, open_object
from workers.storage.stream import SourceStream
from workers.storage.table_folders import folders_above, tables_in

NAMES = ["std::vector.txt", "2024-01-01T00::00.txt", "part[1].txt", "what?.txt", "star*.txt", "a#b.txt", "100%.txt",
         "a%20b.txt", "k=v.txt", "line\nend.txt", " blank.txt", "back\\slash.txt", "http:||x.txt", "~home.txt", "{a,b}.txt",
         "a**b.txt", "s3:::x.txt"]  # fmt: skip


def found(uri: Path | str) -> list[str]:
    return [info.uri.removeprefix("file://") for info in list_objects(str(uri), {})]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_stands_by_itself_below_a_folder_and_as_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(name)
    folder = tmp_path / "folders" / name
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(name)
    assert found(tmp_path / "in" / name) == found(f"{tmp_path}/in/") == [f"{tmp_path}/in/{name}"]
    assert found(f"file://{tmp_path}/in/{name}") == [f"{tmp_path}/in/{name}"]
    assert found(folder) == found(f"{folder}/") == [f"{folder}/a.txt"]
    (info,) = list_objects(str(tmp_path / "in"), {})
    with open_object(info.uri, info.size, info.etag, {}) as stream:
        assert stream.read().decode() == name


def test_what_is_a_name_and_a_glob_is_both(tmp_path: Path) -> None:
    for name in ("x[1].txt", "x1.txt", "x*.txt"):
        (tmp_path / name).touch()
    assert found(tmp_path / "x[1].txt") == [f"{tmp_path}/x1.txt", f"{tmp_path}/x[1].txt"]
    assert found(tmp_path / "x*.txt") == [f"{tmp_path}/x*.txt", f"{tmp_path}/x1.txt", f"{tmp_path}/x[1].txt"]


def test_a_glob_of_folders_means_what_is_in_them(tmp_path: Path) -> None:
    for name in ("lang=de/a.txt", "lang=en/b/c.txt", "other/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    wanted = [f"{tmp_path}/lang=de/a.txt", f"{tmp_path}/lang=en/b/c.txt"]
    assert found(tmp_path / "lang=*") == found(f"{tmp_path}/lang=*/") == wanted
    assert found(tmp_path / "*") == [*wanted, f"{tmp_path}/other/d.txt"]
    with pytest.raises(FileNotFoundError, match="no objects there"):
        list_objects(f"{tmp_path}/*.parquet", {})


def test_what_is_there_instead_is_said(tmp_path: Path) -> None:
    for name in ("only/_SUCCESS", "only/.git/a.txt", "corpus/part-1.txt", "corpus/part-2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"nothing there but names that are passed over as markers \(/\.git, 2 in all\)"):
        list_objects(f"{tmp_path}/only/", {})
    with pytest.raises(UsageError, match=r"no object or folder of that name, but 2 whose names begin so; write .*/part-\*"):
        list_objects(f"{tmp_path}/corpus/part-", {})
    with pytest.raises(FileNotFoundError, match="no objects there"):
        list_objects(f"{tmp_path}/nothing", {})


def test_names_that_are_not_utf8_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"na\xefve.txt"):
        (tmp_path / os.fsdecode(name)).touch()
    with pytest.raises(UsageError, match=r"caf\\xe9\.txt \(and 1 more\): the file name is not UTF-8; rename it"):
        list_objects(str(tmp_path), {})


@pytest.mark.parametrize("link", ["nowhere", "a.txt"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, link: str) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / link)
    with pytest.raises(UsageError, match=r"a\.txt: a link that leads nowhere"):
        list_objects(str(tmp_path), {})


@pytest.mark.parametrize(
    ("record", "kind"),
    [("_delta_log/0.json", "Delta"), (".hoodie/hoodie.properties", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")],
)
def test_a_table_is_told_from_above_from_within_and_by_a_glob(tmp_path: Path, record: str, kind: str) -> None:
    table = tmp_path / "lake" / "t"
    for name in (record, "a.txt", "data/b.txt", "lang=en/y=1/c.txt"):
        (table / name).parent.mkdir(parents=True, exist_ok=True)
        (table / name).touch()
    wanted = {f"file://{table}": kind}
    for uri in (tmp_path, table, f"{table}/*.txt", f"{table}/lang=en/", f"{table}/lang=en/y=1/*.txt", f"{table}/data/"):
        assert explore(str(uri), {}).tables == wanted, uri
    assert explore(str(table / "a.txt"), {}).tables == {}, "one file, named by itself"


def test_tables_by_names_alone() -> None:
    assert tables_in(["b/t/data/0.lance", "b/u/metadata/00-x.metadata.json", "b/_delta_log/0.json", "b/c.parquet"]) == {
        "b/t": "Lance",
        "b/u": "Iceberg",
        "b": "Delta",
    }
    assert tables_in(["b/metadata/a.json", "b/data/a.parquet"]) == {}
    assert folders_above("b/t/lang=en/y=1") == ["b/t/lang=en", "b/t"]
    assert folders_above("b/t/data") == ["b/t"]
    assert folders_above("b/t") == []


def test_what_a_scheme_cannot_do_is_said_in_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "x.zip", "a.txt")
    for uri in (f"zip://a.txt::{tmp_path}/x.zip", f"tar://::{tmp_path}/x.tar"):
        with pytest.raises(UsageError, match=r"cannot be opened one by one .* unpack the archive"):
            list_objects(uri, {})
    with pytest.raises(UsageError, match=r"cannot be opened: .*Connection refused"):
        list_objects(f"ftp://127.0.0.1:{_free_port()}/a.txt", {})
    for uri in ("foo://x/y", "zip:///nothing.zip", "hdfs://127.0.0.1:9/", "/nul\0"):
        with pytest.raises(UsageError):
            list_objects(uri, {})


class _Served(SimpleHTTPRequestHandler):
    """A plain web server: no byte ranges, no etags."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(int(self.path.strip("/").partition(".")[0]))

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def web(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    handler: Any = getattr(request, "param", None) or functools.partial(_Served, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_objects_of_a_web_server_are_read(tmp_path: Path, web: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789" * 100)
    for uri in (f"{web}/a.txt", f"{web}/a.txt?x=1", f"{web}/", f"{web}/*.txt"):
        (info,) = list_objects(uri, {})
        assert info.size == 1000
        with SourceStream.open(ObjectSlice(info.uri, info.size, info.etag, 0, info.size), {}, exact=False) as stream:
            assert stream.head(10) == b"0123456789"
            assert stream.read() == b"0123456789" * 100
    with pytest.raises(FileNotFoundError):
        list_objects(f"{web}/b.txt", {})


def test_a_web_server_without_byte_ranges_is_named_where_they_are_needed(tmp_path: Path, web: str) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(1 << 18))
    (info,) = list_objects(f"{web}/a.txt", {})
    piece = ObjectSlice(info.uri, info.size, info.etag, 1 << 17, info.size)
    with SourceStream.open(piece, {}, exact=False) as stream:
        stream.seek(1 << 17)
        with pytest.raises(ObjectError, match="its web server sends no parts of an object"):
            stream.read(10)


@pytest.mark.parametrize("web", [_Refusing], indirect=True)
def test_a_web_servers_refusal_is_no_absence(web: str) -> None:
    with pytest.raises(AccessDenied, match="access denied"):
        list_objects(f"{web}/403.txt", {})
    with pytest.raises(TransientError, match="500"):
        list_objects(f"{web}/500.txt", {}, retry_seconds=0.2)
    with pytest.raises(FileNotFoundError):
        list_objects(f"{web}/404.txt", {})
    with pytest.raises(TransientError, match="Cannot connect"):
        list_objects(f"http://127.0.0.1:{_free_port()}/a.txt", {}, retry_seconds=0.2)

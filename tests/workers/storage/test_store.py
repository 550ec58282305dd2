"""A Store on three backends: a local folder, a real S3 server, and memory:// for 'any other fsspec scheme'."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from workers.errors import StorageFull, UsageError
from workers.storage.store import Store

ROOT = Path(__file__).resolve().parents[3]
BACKENDS = ["local", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=BACKENDS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty output root."""
    match request.param:
        case "s3":
            return f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}/out"
        case "memory":
            return f"memory://{uuid.uuid4().hex}/out"
        case _:
            return str(tmp_path / "out")


def test_what_is_put_is_listed_read_and_deleted(root: str) -> None:
    store = Store(root, {})
    assert store.list("") == {}
    assert store.folders("runs") == ()
    store.put("runs/a/one.json", b"1")
    store.put("runs/ab/two.json", b"22")
    store.put("runs/a/one.json", b"111")
    store.put("data/p=x y%2F/ü.bin", b"")
    assert store.list("") == {"runs/a/one.json": 3, "runs/ab/two.json": 2, "data/p=x y%2F/ü.bin": 0}
    assert store.list("runs/a") == store.list("runs/a/") == {"runs/a/one.json": 3}  # not runs/ab
    assert store.list("runs/b") == {}
    assert store.folders("runs") == ("a", "ab")
    assert store.read("runs/a/one.json") == b"111"
    with store.open("runs/a/one.json") as stream:
        assert stream.read() == b"111"
    store.put("runs/a/range.bin", b"0123456789")
    spans = ((0, 10), (3, 4), (8, 5), (10, 2), (17, 1))
    assert [store.read_range("runs/a/range.bin", *span) for span in spans] == [b"0123456789", b"3456", b"89", b"", b""]
    with pytest.raises(FileNotFoundError):
        store.read_range("runs/a/none.bin", 0, 1)
    store.delete("runs/a/range.bin")
    store.delete("runs/a/one.json")
    store.delete("runs/a/one.json")
    assert not store.exists("runs/a/one.json")
    assert store.exists("runs/ab/two.json")
    with pytest.raises(FileNotFoundError):
        store.read("runs/a/one.json")


def test_many_are_deleted_and_the_others_stay(root: str) -> None:
    store = Store(root, {})
    paths = [f"data/a/p={letter} %2F/ü{number}.bin" for letter in "xy" for number in range(4)]
    for path in [*paths, "data/ab/other"]:
        store.put(path, b"1")
    store.delete_many([])
    store.delete_many([*paths[1:], "data/a/never there"])
    assert set(store.list("data")) == {paths[0], "data/ab/other"}
    store.delete_many(paths)
    store.prune("data/a")
    assert store.list("data") == {"data/ab/other": 1}


def test_emptied_folders_go_and_no_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    for path in ("data/a/x/1", "data/a/y/2", "data/b/3"):
        store.put(path, b"1")
    store.prune("data")
    store.delete_many(["data/a/x/1", "data/b/3"])
    store.prune("data/a")
    store.prune("nowhere")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a", "b"]
    assert [path.name for path in (tmp_path / "data" / "a").iterdir()] == ["y"]


@pytest.mark.s3
def test_a_server_that_deletes_one_at_a_time(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know the request, or knows it and leaves some: those are tried one by one."""
    from botocore.exceptions import ClientError

    store = Store(f"s3://{s3_bucket}/{uuid.uuid4().hex[:8]}", {})
    real, asked = store._fs.call_s3, []

    def call(method: str, **arguments: object) -> object:
        if method == "delete_objects":
            asked.append(method)
            if len(asked) == 1:
                raise ClientError({"Error": {"Code": "NotImplemented"}}, "DeleteObjects")
            keys = [item["Key"] for item in arguments["Delete"]["Objects"]]  # type: ignore[index]
            return {"Errors": [{"Key": keys[1], "Code": "InternalError"}]}
        return real(method, **arguments)

    monkeypatch.setattr(store._fs, "call_s3", call)
    for left in ({}, {"a": 1, "c": 1}):
        for path in "abc":
            store.put(path, b"1")
        store.delete_many(["a", "b", "c"])
        assert store.list("") == left


def test_uris_lead_back_to_the_bytes(root: str) -> None:
    Store(root + "/", {}).put("a/b", b"x")
    folder, _, name = Store(root, {}).uri_of("a/b").rpartition("/")
    assert Store(folder, {}).read(name) == b"x"


def test_a_relative_folder_is_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("out", {}).uri_of("CURRENT.json") == str(tmp_path / "out/CURRENT.json")


def test_the_root_of_a_scheme_is_a_root() -> None:
    store, name = Store("memory://", {}), f"{uuid.uuid4().hex}/x"
    store.put(name, b"1")
    assert store.list(name.partition("/")[0]) == {name: 1}
    assert Store(store.uri_of(name.partition("/")[0]), {}).read("x") == b"1"


def test_create_keeps_what_is_there(root: str) -> None:
    store = Store(root, {})
    assert store.put_if_absent("key", b"first")
    assert not store.put_if_absent("key", b"other")
    assert not store.put_if_absent("key", b"second, longer")
    assert store.read("key") == b"first"
    assert store.put_if_absent("key", b"first"), "our own bytes are there: done"


def test_a_copy_is_a_file_of_its_own(root: str) -> None:
    store = Store(root, {})
    store.put("data/a/lang=de%2F x/part.parquet", b"first")
    store.put("data/b/other", b"in the way")
    for _ in range(2):
        store.copy("data/a/lang=de%2F x/part.parquet", "data/b/lang=de%2F x/part.parquet")
        store.copy("data/a/lang=de%2F x/part.parquet", "data/b/other")
    assert set(store.list("data/b")) == {"data/b/lang=de%2F x/part.parquet", "data/b/other"}, "no temporary file stays"
    store.put("data/a/lang=de%2F x/part.parquet", b"another version")
    assert store.read("data/b/lang=de%2F x/part.parquet") == store.read("data/b/other") == b"first"
    store.copy("data/b/other", "data/c")
    store.delete("data/b/other")
    assert store.read("data/c") == b"first"
    store.put("data/c", b"replaced")
    assert store.read("data/b/lang=de%2F x/part.parquet") == b"first"


def test_a_copy_of_nothing_changes_nothing(root: str) -> None:
    store = Store(root, {})
    store.put("there", b"1")
    with pytest.raises(FileNotFoundError):
        store.copy("gone", "there")
    with pytest.raises(FileNotFoundError):
        store.copy("gone", "new")
    assert store.list("") == {"there": 1}


@pytest.mark.s3
def test_what_one_request_does_not_copy_is_copied_in_parts(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal that AWS gives beyond 5 GB; parts of 5 MB instead of large ones."""
    import s3fs
    from botocore.exceptions import ClientError

    store, data = Store(f"s3://{s3_bucket}/large", {}), os.urandom(11 << 20)
    store.put("a=b/c", data)
    managed = s3fs.S3FileSystem._copy_managed

    def refuse(method: str, **options: object) -> None:
        assert method == "copy_object"
        error = {"Error": {"Code": "InvalidRequest", "Message": "The specified copy source is larger than ..."}}
        raise OSError(22, "larger") from ClientError(error, method)  # type: ignore[arg-type]

    async def small(self: object, source: str, target: str, size: int, **options: object) -> None:
        await managed(self, source, target, size, block=5 << 20, **options)

    monkeypatch.setattr(s3fs.core, "MANAGED_COPY_THRESHOLD", 6 << 20)
    monkeypatch.setattr(s3fs.S3FileSystem, "_copy_managed", small)
    with monkeypatch.context() as patch:
        patch.setattr(store._fs, "call_s3", refuse)
        store.copy("a=b/c", "a=b/d")
    assert store._fs.info(f"{s3_bucket}/large/a=b/d")["ETag"].strip('"').endswith("-3"), "three parts"
    assert store.read("a=b/d") == data


@pytest.mark.parametrize("root", ["local", pytest.param("s3", marks=pytest.mark.s3)], indirect=True)
def test_of_racing_threads_one_creates(root: str) -> None:
    store = Store(root, {})
    for key in range(5):
        start = threading.Barrier(12)

        def race(racer: int, key: int = key, start: threading.Barrier = start) -> bool:
            start.wait()
            return store.put_if_absent(f"race/{key}", str(racer).encode())

        with ThreadPoolExecutor(12) as pool:
            won = list(pool.map(race, range(12)))
        assert won.count(True) == 1
        assert store.read(f"race/{key}") == str(won.index(True)).encode()


_RACER = """
import sys
from workers.storage.store import Store
store = Store(sys.argv[1], {})
store.list("")
print("ready", flush=True); sys.stdin.readline()
print(",".join(str(int(store.put_if_absent(f"race/{key}", sys.argv[2].encode()))) for key in range(20)))
"""


@pytest.mark.parametrize("root", ["local", pytest.param("s3", marks=pytest.mark.s3)], indirect=True)
def test_of_racing_processes_one_creates(root: str) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, root, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate(timeout=400)[0].strip().split(",") for racer in racers]
    assert [sum(int(results[key]) for results in won) for key in range(20)] == [1] * 20


@pytest.mark.slow
def test_a_reader_never_sees_half_an_object(root: str) -> None:
    store = Store(root, {})
    size = 300_000
    versions = [bytes([65 + number]) * size for number in range(4)]
    store.put("key", versions[0])
    stop = threading.Event()
    seen: list[bytes] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(store.read("key"))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(20):
        store.put("key", versions[number % 4])
    stop.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 3
    assert all(len(data) == size and len(set(data)) == 1 for data in seen)
    assert list(store.list("")) == ["key"], "no temporary file stays"


@pytest.mark.s3
def test_a_missing_bucket_is_not_an_empty_one(s3_server: object) -> None:
    store = Store("s3://no-such-bucket-here/out", {})
    for call in (lambda: store.list(""), lambda: store.exists("x"), lambda: store.read("x"), lambda: store.put("x", b"")):
        with pytest.raises(UsageError, match=r"no-such-bucket-here.*the bucket does not exist; create it"):
            call()  # type: ignore[no-untyped-call]


class _Proxy:
    """Hands TCP bytes on to the real server. `spoil` decides, by request line, whose answer is swallowed."""

    def __init__(self, endpoint: str, spoil: Callable[[bytes], bool]) -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self._spoil = spoil
        self.spoiled = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._target) as server:
            swallow = False
            client.settimeout(0.05)
            server.settimeout(5)
            while True:
                request = bytearray(client.recv(1 << 16) or b"")
                if not request:
                    return
                with suppress(TimeoutError):
                    while chunk := client.recv(1 << 16):
                        request += chunk
                swallow = self._spoil(bytes(request))
                server.sendall(request)
                answer = server.recv(1 << 16)
                if swallow:
                    self.spoiled += 1
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def losing_proxy(s3_server: object) -> Iterator[_Proxy]:
    """Swallows the answer to the first PUT: applied, never acknowledged."""
    left = [1]

    def first_put(request: bytes) -> bool:
        if request.startswith(b"PUT") and left:
            left.pop()
            return True
        return False

    proxy = _Proxy(os.environ["AWS_ENDPOINT_URL"], first_put)
    yield proxy
    proxy.close()


@pytest.mark.s3
def test_a_lost_acknowledgement_of_our_own_create_is_success(losing_proxy: _Proxy, s3_bucket: str) -> None:
    behind = Store(f"s3://{s3_bucket}/lost-ack", {"endpoint_url": losing_proxy.endpoint})
    assert behind.put_if_absent("key", b"mine")
    assert losing_proxy.spoiled == 1
    assert not behind.put_if_absent("key", b"other's")
    assert Store(f"s3://{s3_bucket}/lost-ack", {}).read("key") == b"mine"


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_file_is_put_once_and_found_again(kind: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out") if kind == "local" else f"memory://{tmp_path.name}", {})
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.write_bytes(b"rows" * 100_000)
    other.write_bytes(b"ROWS" * 100_000)
    assert store.put_file_if_absent("data/part", ours)
    assert store.put_file_if_absent("data/part", ours)  # as after a lost answer: what is there is what was to be put
    assert not store.put_file_if_absent("data/part", other)
    assert store.read("data/part") == ours.read_bytes()
    ours.unlink()
    assert store.read("data/part") == b"rows" * 100_000


def test_a_store_without_room_is_tried_for_one_budget_only(tmp_path: Path) -> None:
    """Every later write would otherwise wait as long again: heartbeats, status, the record of how the run ended."""
    full, calls = True, 0

    class Small(Store):
        def _write(self, path: str, data: bytes, *, create: bool) -> bool:
            nonlocal calls
            calls += 1
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super()._write(path, data, create=create)

    store = Small(str(tmp_path), {}, retry_seconds=0.5)
    with pytest.raises(StorageFull, match="no room is left there"):
        store.put("a", b"1")
    assert calls > 1
    for _ in range(2):
        calls = 0
        with pytest.raises(StorageFull):
            store.put_if_absent("b", b"1")
        assert calls == 1
    full = False
    store.put("a", b"1")
    full, calls = True, 0
    with pytest.raises(StorageFull):
        store.put("a", b"2")
    assert calls > 1, "there was room in between"


def test_after_a_refusal_the_rest_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class AppendOnly(Store):
        def delete(self, path: str) -> None:
            raise UsageError(f"{path}: access denied")

    with caplog.at_level("WARNING", "reembed"):
        AppendOnly(str(tmp_path), {}).discard(["a", "b", "c"])
    assert len(caplog.records) == 1

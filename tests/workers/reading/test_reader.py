"""Shards: windows and their borders, several objects, exclusions, vanished and replaced objects, failing stores, memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.workers.corpus_files import plan_of, put, put_jsonl, put_parquet, read, slice_of
from workers.config import SourceFormat
from workers.errors import AccessDenied, ObjectChanged, ObjectMissing, ReembedError, TransientError, UsageError
from workers.reading.reader import KEPT_BYTES
from workers.records.documents import WINDOW_BYTES, WINDOW_ROWS
from workers.records.shard import ObjectSlice
from workers.storage import stream as stream_module


def test_windows_end_after_so_many_documents(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"t{n}"} if n % 3 else {"text": None} for n in range(3 * WINDOW_ROWS)]
    jsonl = put_jsonl(tmp_path / "a.jsonl", *rows)
    parquet = put_parquet(tmp_path / "a.parquet", {"text": [row["text"] for row in rows]}, row_group_size=5000)
    one, other = read(jsonl, plan_of()), read(parquet, plan_of())
    for found in (one, other):
        assert [window.table.num_rows for window in found.windows] == [WINDOW_ROWS, WINDOW_ROWS]
        assert [window.rows_read for window in found.windows] == [3 * WINDOW_ROWS // 2] * 2
        for window in found.windows:  # what was met in a window belongs to it
            numbers = {row.row for row in window.quarantined} | set(window.table["row"].to_pylist())
            first = window.index * window.rows_read
            assert numbers == set(range(first, first + window.rows_read))
    assert one.texts == other.texts


def test_windows_end_after_so_many_bytes(tmp_path: Path) -> None:
    sizes = [WINDOW_BYTES // 3] * 7 + [3 * WINDOW_BYTES] + [10] * 5
    for name in ("a.jsonl", "a.parquet"):
        texts = ["x" * size for size in sizes]
        path = tmp_path / name
        put_jsonl(path, *({"text": t} for t in texts)) if name == "a.jsonl" else put_parquet(path, {"text": texts})
        assert [window.table.num_rows for window in read(path, plan_of()).windows] == [4, 4, 5]


def test_windows_are_bounded_by_quarantined_rows_and_kept_columns(tmp_path: Path) -> None:
    found = read(put_jsonl(tmp_path / "a.jsonl", *["{"] * (2 * WINDOW_ROWS + 1)), plan_of())
    assert [(w.table.num_rows, w.rows_read) for w in found.windows] == [(0, WINDOW_ROWS), (0, WINDOW_ROWS), (0, 1)]
    path = put_jsonl(tmp_path / "b.jsonl", *({"text": "t", "k": "x" * (KEPT_BYTES // 2)} for _ in range(5)))
    assert [window.table.num_rows for window in read(path, plan_of({"k": pa.string()})).windows] == [2, 2, 1]


def test_a_shard_of_many_objects_in_one_window(tmp_path: Path) -> None:
    slices = [
        slice_of(put_jsonl(tmp_path / "a.jsonl", {"text": "a", "n": 1}, {"text": None}), partitions=(("p", "1"),)),
        slice_of(put_parquet(tmp_path / "b.parquet", {"text": ["b"], "n": [2]}), partitions=(("p", "2"),)),
        slice_of(put(tmp_path / "c.csv.gz", b"text,n\nc,3\n"), partitions=(("p", None),)),
        slice_of(put(tmp_path / "d.txt", b"d\n\n")),
        slice_of(put(tmp_path / "e.jsonl", b"")),
    ]
    found = read(slices, plan_of({"n": pa.int64(), "p": pa.string()}))
    assert len(found.windows) == 1
    assert found.texts == ["a", "b", "c", "d"]
    assert found.ids == [f"{tmp_path}/{name}#0" for name in ("a.jsonl", "b.parquet", "c.csv.gz", "d.txt")]
    assert [row["object"] for row in found.documents] == [piece.uri for piece in slices[:4]]
    assert found.kept("n") == [1, 2, 3, None]
    assert found.kept("p") == ["1", "2", None, None]
    assert read([], plan_of()).windows == []


def test_duplicate_ids_are_let_through(tmp_path: Path) -> None:
    slices = [slice_of(put_jsonl(tmp_path / f"{n}.jsonl", {"id": 1, "text": "a"}, {"id": 1, "text": "b"})) for n in (1, 2)]
    assert read(slices, plan_of(id="id")).ids == ["1"] * 4


def test_excluded_objects_are_not_opened(tmp_path: Path) -> None:
    good = slice_of(put_jsonl(tmp_path / "good.jsonl", {"text": "a"}))
    bad = put(tmp_path / "bad.jsonl", b"x")
    known, unknown = slice_of(bad, rows=7), slice_of(bad)
    bad.unlink()
    found = read([known, good, unknown], plan_of(), {known.uri: "corrupt"})
    assert found.texts == ["a"]
    assert [(q.object, q.row, q.id, q.reason, q.rows) for q in found.quarantined] == [
        (known.uri, None, None, "corrupt", 7),
        (known.uri, None, None, "corrupt", None),
    ]
    assert found.rows_read == 8


def test_a_signed_url_is_excluded_by_its_redacted_name() -> None:
    piece = ObjectSlice("https://u:pw@h/a.jsonl?sig=secret", 5, "e", 0, 5, rows=3)
    found = read(piece, plan_of(), {"https://h/a.jsonl": "gone"})
    assert [(row.object, row.rows) for row in found.quarantined] == [("https://h/a.jsonl", 3)]


def test_vanished_replaced_and_unknown_objects(tmp_path: Path) -> None:
    path = put_jsonl(tmp_path / "a.jsonl", {"text": "a"})
    piece = slice_of(path)
    put_jsonl(path, {"text": "other"})
    with pytest.raises(ObjectChanged, match="replaced after the run was planned"):
        read(piece, plan_of())
    path.unlink()
    with pytest.raises(ObjectMissing, match="deleted after the run was planned"):
        read(piece, plan_of())
    with pytest.raises(UsageError, match=r"corpus\.format"):
        read(put(tmp_path / "a.bin", b"x"), plan_of())
    assert read(put(tmp_path / "a.bin", b"x"), plan_of(format=SourceFormat.TEXT)).texts == ["x"]


class FailingStore:
    """A stream of the store that fails after so many bytes."""

    def __init__(self, data: bytes, after: int, error: Exception | None) -> None:
        self._data, self._after, self._error, self._position = data, after, error, 0

    def seek(self, offset: int) -> None:
        self._position = offset

    def read(self, count: int) -> bytes:
        if self._position + count > self._after:
            if self._error is not None:
                raise self._error
            count = max(0, self._after - self._position)
        data = self._data[self._position : self._position + count]
        self._position += len(data)
        return data

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.txt"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(5, "connection reset"), TransientError),
        (None, TransientError),  # the store ends the object early: not the object's fault
        (FileNotFoundError("gone"), ObjectMissing),
        (PermissionError("no more"), AccessDenied),  # it was opened, so these credentials did suffice
    ],
    ids=["reset", "short", "deleted", "denied"],
)
def test_a_failing_store_is_never_the_objects_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception | None, expected: type[ReembedError]
) -> None:
    path = tmp_path / name
    rows = [f"text {n} " * 100 for n in range(1000)]
    if name == "a.parquet":
        put_parquet(path, {"text": rows}, row_group_size=100, compression="none")
    else:
        put(path, "\n".join(json.dumps({"text": t}) if "json" in name else t for t in ["text", *rows]).encode())
    data = path.read_bytes()
    piece = slice_of(path)

    store = FailingPages if name == "a.parquet" else FailingStore
    monkeypatch.setattr(stream_module, "open_object", lambda *_, **__: store(data, len(data) // 2, error))
    with pytest.raises(expected) as caught:
        read(piece, plan_of())
    assert type(caught.value) is expected


class FailingPages(FailingStore):
    """Fails for the pages; the footer, in the last quarter, can be read."""

    def read(self, count: int) -> bytes:
        if self._position >= len(self._data) * 3 // 4:
            return self._data[self._position : self._position + count]
        return FailingStore.read(self, count)


MEASURE = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.workers.corpus_files import plan_of, slice_of
from workers.reading.reader import read_windows
from workers.records.shard import Shard
small = Path({path!r} + ".txt")
small.write_bytes(b"warm up")
list(read_windows(Shard(0, (slice_of(small),), 0), plan_of(), {{}}))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = lost = 0
plan = plan_of(max_text_bytes=1_000_000, **{settings!r})
for window in read_windows(Shard(0, (slice_of(Path({path!r})),), 0), plan, {{}}):
    rows += window.table.num_rows
    lost += len(window.quarantined)
print(rows, lost, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def _write_line(path: Path) -> None:
    with path.open("wb") as stream:
        for _ in range(300):
            stream.write(b"x" * 1_000_000)
        stream.write(b"\nlast\n")


def _write_bomb(path: Path, block: bytes = b"\0" * 1_000_000) -> None:
    path.write_bytes(gzip.compress(block) * 300)


def _write_quote(path: Path) -> None:
    path.write_bytes(b'text\n"open\n' + (b"swallowed by a quote " * 50 + b"\n") * 60_000)


def _write_bad_lines(path: Path) -> None:
    _write_bomb(path, b"{\n" * 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "settings", "rows", "lost"),
    [
        ("a.txt", _write_line, {}, 1, 1),
        ("a.jsonl.gz", _write_bomb, {}, 0, 1),
        ("a.txt.gz", _write_bomb, {"text_unit": "file"}, 0, 1),
        ("a.csv", _write_quote, {}, 0, 1),
        ("bad.jsonl.gz", _write_bad_lines, {}, 0, 300_000),
    ],
)
def test_memory_does_not_grow_with_the_object(
    tmp_path: Path, name: str, write: Callable[[Path], None], settings: dict[str, Any], rows: int, lost: int
) -> None:
    path = tmp_path / name
    write(path)
    script = MEASURE.format(root=str(Path(__file__).parents[3]), path=str(path), settings=settings)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found_rows, found_lost, kilobytes = map(int, done.stdout.split())
    assert (found_rows, found_lost) == (rows, lost)
    assert kilobytes < 60_000


@pytest.mark.s3
def test_every_format_from_a_real_server(tmp_path: Path, s3_bucket: str) -> None:
    import s3fs

    from workers.storage.objects import stat_object

    fs = s3fs.S3FileSystem()
    texts = [f"row {n} " + "word " * 20 for n in range(20_000)]
    put_parquet(tmp_path / "a.parquet", {"skip": ["s" * 200] * len(texts), "text": texts}, row_group_size=3000)
    put_jsonl(tmp_path / "a.jsonl", *({"text": t} for t in texts))
    for suffix in (".gz", ".zst", ".bz2"):
        put(tmp_path / f"a.jsonl{suffix}", (tmp_path / "a.jsonl").read_bytes())
    put(tmp_path / "a.csv", "\n".join(["text", *texts]).encode())
    for path in sorted(tmp_path.iterdir()):
        uri = f"s3://{s3_bucket}/corpus/{path.name}"
        fs.put_file(str(path), uri)
        info = stat_object(uri, {})
        stop = 7 if path.suffix == ".parquet" else info.size
        pieces = [ObjectSlice(uri, info.size, info.etag, 0, stop)]
        if path.name == "a.jsonl":
            cut = info.size // 2
            row = (tmp_path / "a.jsonl").read_bytes()[:cut].count(b"\n") + 1
            split = ObjectSlice(uri, info.size, info.etag, cut, stop, None, row)
            pieces = [ObjectSlice(uri, info.size, info.etag, 0, cut), split]
        found = read(pieces, plan_of())
        assert found.texts == texts, path.name
        assert found.ids == [f"corpus/{path.name}#{row}" for row in range(len(texts))]

    fs.pipe_file(f"{s3_bucket}/corpus/a.jsonl", b'{"text": "replaced"}\n')
    with pytest.raises(ObjectChanged):
        read(split, plan_of())

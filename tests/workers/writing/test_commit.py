"""Killed anywhere, met by a zombie, or by its own earlier attempt: each row stands on the store exactly once."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.workers.output_samples import RUN, append, assignment, draft_for, rows, schema, write
from workers.errors import PartConflict
from workers.records.documents import QuarantinedRow
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.table.schema import OutputSchema
from workers.writing.commit import InFlight, adopt
from workers.writing.writer import ShardWriter

SHARD = assignment().shard
COUNT = 60


class Killed(Exception):
    """Stands for the end of the process."""


class DyingStore(Store):
    """Dies after so many parts were put."""

    def __init__(self, uri: str, puts: int) -> None:
        super().__init__(uri, {})
        self.puts = puts

    def put_if_absent(self, path: str, data: bytes) -> bool:
        if self.puts == 0:
            raise Killed
        self.puts -= 1
        return super().put_if_absent(path, data)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty output root."""
    if request.param == "local":
        return str(tmp_path / "out")
    return f"s3://{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"


@pytest.fixture
def shape() -> OutputSchema:
    return schema({"section": pa.string()}, ["section"])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `killed after k puts` means k parts."""
    monkeypatch.setattr("workers.writing.commit.PUT_THREADS", 1)


def windows(shape: OutputSchema, seed: int = 0, count: int = COUNT) -> list[pa.Table]:
    return [rows(shape, count, seed, section=[f"s{n % 6}" for n in range(count)])]


def stored(store: Store) -> pa.Table:
    """Every row below data/, read file by file."""
    parts = [pq.read_table(pa.BufferReader(store.read(path))) for path in store.list(f"data/{RUN}")]
    return pa.concat_tables(parts) if parts else pa.table({"id": []})


def check_receipt(store: Store, files: tuple[OutputFile, ...], count: int = COUNT) -> None:
    """What the receipt lists is what stands there, no more and no less, each id once."""
    assert {file.path: file.bytes for file in files} == store.list(f"data/{RUN}")
    assert all(hashlib.sha256(store.read(file.path)).hexdigest() == file.sha256 for file in files)
    ids = stored(store)["id"].to_pylist()
    assert sorted(ids) == sorted(f"doc-{number}" for number in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("puts", range(7))
@pytest.mark.parametrize("seed", [0, 9], ids=["same vectors", "other vectors"])
def test_killed_between_parts_and_retried(puts: int, seed: int, root: str, shape: OutputSchema, tmp_path: Path) -> None:
    store, left = Store(root, {}), 0
    if puts < 6:
        with pytest.raises(Killed):
            write(DyingStore(root, puts), shape, windows(shape), tmp_path)
        left = len(store.list(f"data/{RUN}"))
        assert left == puts
        assert adopt(store, RUN, SHARD, shape.fingerprint()) is None
    receipt = write(store, shape, windows(shape, seed), tmp_path, epoch=2)
    check_receipt(store, receipt.files)
    epochs = [pq.read_metadata(pa.BufferReader(store.read(file.path))).metadata[b"reembed.epoch"] for file in receipt.files]
    assert epochs == [b"1"] * left + [b"2"] * (6 - left)
    again = adopt(store, RUN, SHARD, shape.fingerprint())  # the staged record tells of the adopted files too
    assert again is not None
    assert again.files == receipt.files


def test_killed_before_the_receipt_nothing_is_computed_again(root: str, shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(root, {})
    writer = ShardWriter(store, assignment(), shape, tmp_path)
    append(writer, shape, windows(shape)[0])
    writer.quarantine([QuarantinedRow("o", 1, "x", "text is empty")])
    receipt = writer.finish(draft_for(assignment(), COUNT))
    adopted = adopt(store, RUN, SHARD, shape.fingerprint())
    assert adopted is not None
    assert adopted.adopted
    assert (adopted.files, adopted.quarantine, adopted.rows) == (receipt.files, receipt.quarantine, COUNT)


@pytest.mark.parametrize("damage", ["deleted", "altered", "quarantine gone", "other settings", "not json", "never staged"])
def test_what_is_not_whole_is_not_adopted(damage: str, shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    writer = ShardWriter(store, assignment(), shape, tmp_path)
    append(writer, shape, windows(shape)[0])
    writer.quarantine([QuarantinedRow("o", 1, "x", "text is empty")])
    receipt = writer.finish(draft_for(assignment(), COUNT))
    last, fingerprint = receipt.files[-1].path, shape.fingerprint()
    assert adopt(store, RUN, SHARD, fingerprint) is not None
    if damage == "deleted":
        store.delete(last)
    elif damage == "altered":
        data = store.read(last)
        store.put(last, data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    elif damage == "quarantine gone":
        store.delete(f"runs/{RUN}/quarantine/shard-0000003.parquet")
    elif damage == "other settings":
        fingerprint = schema({"section": pa.string()}, ["section"], weights_digest="other").fingerprint()
    elif damage == "not json":
        store.put(f"runs/{RUN}/staged/0000003.json", b"{}")
    else:
        store.delete(f"runs/{RUN}/staged/0000003.json")
    assert adopt(store, RUN, SHARD, fingerprint) is None


def test_a_zombie_changes_nothing(root: str, shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(root, {})
    receipt = write(store, shape, windows(shape), tmp_path, epoch=5)
    before = {path: store.read(path) for path in store.list(f"data/{RUN}")}
    zombie = write(store, shape, windows(shape, seed=9), tmp_path, epoch=2)  # same rows: agrees with what stands there
    assert zombie.files == receipt.files
    with pytest.raises(PartConflict, match="epoch 5, this one is 2"):
        write(store, shape, windows(shape, count=COUNT - 1), tmp_path, epoch=2)  # other rows: refused
    assert {path: store.read(path) for path in store.list(f"data/{RUN}")} == before


def test_a_later_attempt_with_other_rows_replaces_an_earlier_one(root: str, shape: OutputSchema, tmp_path: Path) -> None:
    """An object was excluded after two replicas blamed it: the parts of the first attempt hold rows that must go."""
    store = Store(root, {})
    write(store, shape, windows(shape), tmp_path, epoch=1)
    receipt = write(store, shape, windows(shape, count=30), tmp_path, epoch=3)
    check_receipt(store, receipt.files, 30)


def test_parts_of_another_model_are_never_adopted(shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    write(store, shape, windows(shape), tmp_path)
    other = schema({"section": pa.string()}, ["section"], weights_digest="other")
    with pytest.raises(PartConflict, match="may not replace"):
        write(store, other, windows(other), tmp_path, epoch=1)
    receipt = write(store, other, windows(other), tmp_path, epoch=2)
    table = ds.dataset(f"{store.uri}/data/{RUN}", partitioning="hive")
    assert table.count_rows() == COUNT
    digests = {pq.read_metadata(store.uri_of(file.path)).metadata[b"reembed.weights_digest"] for file in receipt.files}
    assert digests == {b"other"}


def test_newer_code_finishes_what_older_code_began(shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    first = write(store, shape, windows(shape), tmp_path)
    newer = schema({"section": pa.string()}, ["section"], code_version="99")
    assert adopt(store, RUN, SHARD, newer.fingerprint()) is not None
    assert write(store, newer, windows(newer), tmp_path, epoch=2).files == first.files


def test_a_stray_file_is_named_and_left_alone(shape: OutputSchema, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"), {})
    path = f"data/{RUN}/section=s0/part-0000003.parquet"
    store.put(path, b"not parquet")
    with pytest.raises(PartConflict, match=r"section=s0/part-0000003\.parquet: not a part file of this run; remove it"):
        write(store, shape, windows(shape), tmp_path)
    assert store.read(path) == b"not parquet"


def test_files_in_memory_are_bounded_over_all_shards_and_a_larger_one_goes_alone() -> None:
    limit, lock = InFlight(100), threading.Lock()
    held, most = 0, 0

    def send(size: int) -> None:
        nonlocal held, most
        with limit.room(size):
            with lock:
                held += size
                most = max(most, held if size <= 100 else 0)
                assert held == size or held <= 100
            time.sleep(0.002)
            with lock:
                held -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, [30, 60, 500, 10, 45, 45, 200, 1, 99, 30, 30, 30] * 3))
    assert held == 0
    assert most > 60  # several at a time

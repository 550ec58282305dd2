"""The ledger's log saves reading receipts one by one, and never says anything that the receipts do not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.state import ledger as ledger_module
from jobs.state.ledger import LEAST_LOGGED, Ledger, load_receipts
from jobs.state.receipt_log import count_receipts, decode_segment, encode_segment
from tests.jobs.ledger_samples import RUN, receipt
from workers.errors import RunAborted, TransientError
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths

LOG = RunPaths(RUN).ledger


class Counting(Store):
    """Tells what was read, and can be made to die at the n-th deletion or creation."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, {})
        self.reads: list[str] = []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return super().read(path)

    def loads(self, run: str = RUN) -> dict[int, Receipt]:
        self.reads.clear()
        return dict(load_receipts(self, run))

    @property
    def one_by_one(self) -> int:
        return sum(path.startswith(RunPaths(RUN).receipts) for path in self.reads)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    if request.param == "s3":
        return Counting(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}")
    return Counting(str(tmp_path / "out"))


def write(store: Store, numbers: range, segment: int = 10, generation: int = 1, replica: str = "r") -> None:
    with Ledger(store, RUN, segment=segment, generation=generation) as ledger:
        for number in numbers:
            ledger.record_async(receipt(number, replica=replica))
        ledger.drain()


def test_a_resumed_run_reads_a_few_files_and_not_every_receipt(store: Counting) -> None:
    write(store, range(995, 1030))
    assert len(store.list(LOG)) == 3
    assert store.loads() == {number: receipt(number) for number in range(995, 1030)}
    assert (len(store.reads), store.one_by_one) == (3 + 5, 5)


def test_what_the_log_lacks_is_read_once_and_logged_by_the_driver(store: Counting) -> None:
    write(store, range(7), segment=1000)  # a driver that was killed before it wrote any of the log
    assert store.list(LOG) == {}
    with Ledger(store, RUN, segment=7, generation=2) as ledger:
        assert len(ledger.load()) == 7
    assert store.loads().keys() == set(range(7))
    assert store.one_by_one == 0


def test_a_driver_reads_back_what_it_wrote_from_the_log(store: Counting) -> None:
    count = LEAST_LOGGED + 3
    with Ledger(store, RUN) as ledger:
        for number in range(count):
            ledger.record_async(receipt(number))
        ledger.drain()
        store.reads.clear()
        assert len(ledger.load()) == count
        assert store.one_by_one == 0


def test_the_files_of_the_log_grow_with_the_run(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short run holds few receipts in memory, and a long one writes few files."""
    monkeypatch.setattr(ledger_module, "FIRST_SEGMENTS", 5)
    monkeypatch.setattr(ledger_module, "SEGMENT_RECEIPTS", 9)
    with Ledger(store, RUN) as ledger:
        for number in range(150):
            ledger.record(receipt(number))
    sizes = [len(decode_segment(store.read(path))) for path in sorted(store.list(LOG))]
    assert sizes == [5] * 12 + [6, 6, 7, 7, 8] + [9] * 6
    assert store.loads().keys() == set(range(150))


def test_shards_done_are_counted_by_listing_alone(store: Counting) -> None:
    assert count_receipts(store, RUN) == 0
    write(store, range(990, 1030))
    store.put(f"{RunPaths(RUN).receipts}/00001/.0001000.json.abc.tmp", b"{")
    store.reads.clear()
    assert count_receipts(store, RUN) == 40
    assert store.reads == []


def test_looking_at_a_run_writes_nothing(store: Counting) -> None:
    write(store, range(25), segment=10)
    store.delete(RunPaths(RUN).receipt(3))
    before = store.list("")
    assert store.loads().keys() == set(range(25)) - {3}
    assert store.list("") == before


def test_a_receipt_that_was_dropped_is_never_taken_from_the_log(store: Counting) -> None:
    write(store, range(20))
    with Ledger(store, RUN, generation=2) as ledger:
        ledger.drop([4, 13, 99])
        assert ledger.load().keys() == set(range(20)) - {4, 13}
        ledger.record(receipt(4, replica="q"))  # of the very same size
        assert ledger.load()[4].replica == "q"
        before = store.list(LOG)
        assert 13 not in ledger.load()
        assert store.list(LOG) == before, "what was withdrawn is withdrawn again and again"
    assert store.loads()[4].replica == "q"
    assert store.loads()[5].replica == "r"


def test_what_is_dropped_before_it_was_logged_is_not_logged_later(store: Counting) -> None:
    with Ledger(store, RUN, generation=1, segment=10) as ledger:
        for number in range(9):
            ledger.record(receipt(number))
        ledger.drop([4])
        ledger.record(receipt(9))
        ledger.record(receipt(10))
    assert len(store.list(LOG)) == 2  # what was withdrawn, and ten receipts
    with Ledger(store, RUN, generation=2) as ledger:
        ledger.record(receipt(4, replica="q"))
    assert store.loads()[4].replica == "q"


def test_a_receipt_deleted_by_hand_is_pending_and_its_successor_counts(store: Counting) -> None:
    write(store, range(10))
    store.delete(RunPaths(RUN).receipt(4))
    with Ledger(store, RUN, generation=2) as ledger:
        assert 4 not in ledger.load()
        ledger.record(receipt(4, replica="q"))
    assert store.loads()[4].replica == "q"


def test_all_receipts_deleted_by_hand(store: Counting) -> None:
    write(store, range(10))
    for number in range(10):
        store.delete(RunPaths(RUN).receipt(number))
    with Ledger(store, RUN, generation=2) as ledger:
        assert ledger.load() == {}
        ledger.record(receipt(4, replica="q"))
    assert store.loads() == {4: receipt(4, replica="q")}


def test_a_driver_frozen_before_it_wrote_its_log_changes_nothing_later(store: Counting) -> None:
    """Its receipts were dropped and made again meanwhile; what it writes late is older than the word of the later one."""
    write(store, range(10), segment=1000)
    with Ledger(store, RUN, generation=2, segment=1000) as ledger:
        ledger.drop([4])
        ledger.record(receipt(4, replica="q"))
    late = {number: receipt(number).to_json() for number in range(10)}
    store.put(RunPaths(RUN).ledger_segment(1, 0), encode_segment(late))
    assert store.loads()[4].replica == "q"
    assert store.one_by_one == 1


def test_killed_between_the_withdrawal_and_the_deletion_the_receipt_stands(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, range(10))

    def dies(path: str) -> None:
        raise KeyboardInterrupt(path)

    monkeypatch.setattr(store, "delete", dies)
    with Ledger(store, RUN, generation=2) as ledger, pytest.raises(KeyboardInterrupt):
        ledger.drop([4])
    assert store.loads()[4] == receipt(4)
    assert store.one_by_one == 1


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: _flipped(data)])
def test_a_damaged_file_of_the_log_costs_time_only(
    store: Counting, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write(store, range(20))
    first = min(store.list(LOG))
    store.put(first, damage(store.read(first)))
    assert store.loads() == {number: receipt(number) for number in range(20)}
    assert store.one_by_one == 10
    assert "left out" in caplog.text


def _flipped(data: bytes) -> bytes:
    """One letter of a receipt is another, in a file that unpacks as well as ever: only the digest tells."""
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        lines = stream.read().replace(b'"replica": "r"', b'"replica": "x"', 1)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(lines)
    return bytes(sink.getvalue())


def test_a_receipt_altered_in_place_is_seen_where_its_size_tells(store: Counting) -> None:
    write(store, range(10))
    store.put(RunPaths(RUN).receipt(4), receipt(4, documents=9).to_json())
    assert store.loads()[4].documents == 9
    store.put(RunPaths(RUN).receipt(4), b"{")
    with pytest.raises(RunAborted, match=r"0000004\.json: not a receipt"):
        store.loads()


def test_a_store_that_refuses_the_log_costs_a_warning(
    store: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = store.put_if_absent

    def refuses(path: str, data: bytes) -> bool:
        if path.startswith(LOG):
            raise TransientError("full")
        return put(path, data)

    monkeypatch.setattr(store, "put_if_absent", refuses)
    write(store, range(25))
    assert store.loads().keys() == set(range(25))
    assert "will be read one by one: full" in caplog.text


def test_a_driver_that_lost_the_lock_writes_no_log(store: Counting) -> None:
    held = [True]

    def guard() -> None:
        if not held[0]:
            raise RunAborted("the lock is lost")

    with Ledger(store, RUN, guard=guard, segment=5) as ledger:
        for number in range(4):
            ledger.record(receipt(number))
        held[0] = False
        with pytest.raises(RunAborted, match="lock is lost"):
            ledger.drop([1])
    assert store.list(LOG) == {}


def test_two_ledgers_of_one_generation_do_not_overwrite_each_other(store: Counting) -> None:
    write(store, range(10), generation=0)
    write(store, range(10, 20), generation=0)
    assert len(store.list(LOG)) == 2
    assert len(store.loads()) == 20
    assert store.one_by_one == 0


def test_a_receipt_in_another_folder_is_named(store: Counting) -> None:
    write(store, range(2))
    store.put(f"{RunPaths(RUN).receipts}/00007/0000001.json", receipt(1).to_json())
    with pytest.raises(RunAborted, match=r"00007/0000001\.json: not a receipt"):
        store.loads()


def test_a_receipt_edited_into_lines_is_read_from_where_it_lies(store: Counting) -> None:
    edited = receipt(1).to_json().replace(b", ", b",\n ")
    store.put(RunPaths(RUN).receipt(1), edited)
    for _ in range(2):
        with Ledger(store, RUN, segment=1) as ledger:
            assert ledger.load() == {1: receipt(1)}
            assert ledger.record(replace(receipt(1), replica="other")) == receipt(1)
    assert store.list(LOG) == {}

"""A receipt is the commit of its shard; no row gets lost between them unnoticed."""

from __future__ import annotations

import uuid
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.state.accounting import Totals, account, audit, totals
from jobs.state.ledger import Ledger
from jobs.state.stored_shards import pending
from tests.jobs.ledger_samples import RUN, receipt, shard, with_rows
from workers.errors import RunAborted, TransientError
from workers.storage.store import Store


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(f"s3://{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex[:8]}", {})
    return Store(str(tmp_path / "out"), {})


def test_what_is_recorded_is_loaded(store: Store) -> None:
    numbers = [0, 7, 999, 1000, 12345678]
    with Ledger(store, RUN) as ledger:
        assert ledger.load() == {}
        for number in numbers:
            assert ledger.record(receipt(number)) == receipt(number)
    assert f"runs/{RUN}/receipts/00001/0001000.json" in store.list("runs")
    with Ledger(store, RUN) as ledger:
        assert ledger.load() == {number: receipt(number) for number in numbers}
    with Ledger(store, "20261120T100312Z-ffffffff") as other:
        assert other.load() == {}


def test_the_first_receipt_of_a_shard_wins_until_it_is_dropped(store: Store) -> None:
    with Ledger(store, RUN) as ledger:
        ledger.record(receipt(3, replica="first"))
        assert ledger.record(receipt(3, replica="second")).replica == "first"
        assert ledger.record(receipt(3, replica="first")).replica == "first"
        assert ledger.load()[3].replica == "first"
        ledger.drop([3, 4])
        assert ledger.load() == {}
        assert ledger.record(receipt(3, replica="second")).replica == "second"


def test_recording_in_the_background_is_complete_after_drain(store: Store) -> None:
    with Ledger(store, RUN) as ledger:
        for number in range(60):
            ledger.record_async(receipt(number))
        ledger.drain()
        assert set(ledger.load()) == set(range(60))


def test_an_error_in_the_background_surfaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, data: bytes) -> bool:
        raise TransientError(f"{path}: storage did not answer")

    store = Store(str(tmp_path), {})
    monkeypatch.setattr(store, "put_if_absent", fail)
    with Ledger(store, RUN) as ledger:
        wait([ledger.record_async(receipt(1))])
        with pytest.raises(TransientError, match=r"0000001\.json"):
            ledger.record_async(receipt(2))
        wait([ledger.record_async(receipt(3))])
        with pytest.raises(TransientError, match=r"0000003\.json"):
            ledger.drain()
        ledger.drain()  # told once


def test_a_driver_that_lost_the_lock_records_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise RunAborted("the lock is lost")

    store = Store(str(tmp_path), {})
    with Ledger(store, RUN, guard=lost) as ledger:
        with pytest.raises(RunAborted, match="lock is lost"):
            ledger.record(receipt(1))
        with pytest.raises(RunAborted, match="lock is lost"):
            ledger.drop([1])
    assert store.list("") == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"shard": 1}', receipt(2).to_json()])
def test_a_file_that_is_no_receipt_is_named(tmp_path: Path, data: bytes) -> None:
    store = Store(str(tmp_path), {})
    with Ledger(store, RUN) as ledger:
        ledger.record(receipt(1))
        store.put(f"runs/{RUN}/receipts/00000/0000001.json", data)
        with pytest.raises(RunAborted, match=r"receipts/00000/0000001\.json: not a receipt .*delete it to embed"):
            ledger.load()


def test_leftover_temporary_files_are_no_receipts(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    with Ledger(store, RUN) as ledger:
        ledger.record(receipt(1))
        store.put(f"runs/{RUN}/receipts/00000/.0000002.json.abc.tmp", b"{")
        assert set(ledger.load()) == {1}


def test_totals_add_up() -> None:
    receipts = {1: receipt(1, 10, 2, b"12345"), 2: replace(receipt(2, 5, 0, b"1"), lost_objects=("s3://x",), adopted=True)}
    sums = totals(receipts)
    assert sums.counts == {
        "documents": 15, "rows_read": 17, "rows": 15, "quarantined_rows": 2, "tokens": 105, "padded_tokens": 120,
        "truncated": 2, "duplicate_ids": 0, "clipped": 0, "reused_rows": 0, "repeated_rows": 0, "empty": 0, "probed": 0,
        "overflowed": 0, "excluded_rows": 0,
    }  # fmt: skip
    assert replace(sums, counts={}) == Totals(
        shards=2, documents=15, rows_read=17, rows=15, quarantined_rows=2, tokens=105, padded_tokens=120, truncated=2,
        adopted=1, files=2, output_bytes=6, seconds=4.0, stage_seconds={"read": 0.5, "encode": 3.0}, lost_objects=("s3://x",),
        counts={},
    )  # fmt: skip
    assert totals({}) == Totals()


def test_every_row_is_embedded_or_quarantined() -> None:
    shards = [shard(0), shard(1, None), shard(2, 4), shard(3)]
    receipts = {0: receipt(0, 7, 3), 1: receipt(1, 5), 3: with_rows(receipt(3), 25)}
    accounting = account(shards, receipts, {2: "why"})
    assert (accounting.rows_in, accounting.documents, accounting.rows) == (29, 22, 37)
    assert accounting.quarantined_rows == 7


def test_what_cannot_be_counted_is_said() -> None:
    lost = replace(receipt(0, 7, 3), lost_objects=("s3://corpus/x",))
    accounting = account([shard(0), shard(1, None)], {0: lost}, {1})
    assert accounting.quarantined_rows is None
    assert accounting.known_quarantined_rows == 3
    assert accounting.unknown == ("s3://corpus/x", "shard 1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (receipt(5, 9), "the manifest has 10 rows, 9 were read"),
        (replace(receipt(5), documents=9), "10 rows read, 9 embedded or quarantined"),
        (replace(receipt(5), rows=11), "10 documents gave 11 rows, the files hold 10"),
        (replace(receipt(5), files=()), "10 documents gave 10 rows, the files hold 0"),
        (with_rows(receipt(5), 9), "10 documents gave 9 rows, the files hold 9"),
    ],
)
def test_a_lost_row_names_the_shard_and_both_figures(wrong: object, message: str) -> None:
    with pytest.raises(RunAborted, match=rf"shard 5 \(s3://corpus/5\.parquet\): {message}; nothing is published"):
        account([shard(5)], {5: wrong}, ())  # type: ignore[dict-item]
    right = {4: receipt(4), 6: receipt(6)}
    found = audit([shard(4), shard(5), shard(6)], right | {5: wrong}, ())  # type: ignore[dict-item]
    assert found.breaches == (f"shard 5 (s3://corpus/5.parquet): {message}",)
    assert audit([shard(4), shard(6)], right, ()).breaches == ()


def test_a_shard_without_an_end_and_a_receipt_without_a_shard_are_named() -> None:
    with pytest.raises(RunAborted, match="shard 2 has neither receipt nor quarantine"):
        account([shard(2)], {}, {1})
    with pytest.raises(RunAborted, match=r"receipts of shards \[9\]"):
        account([shard(2)], {2: receipt(2), 9: receipt(9)}, ())


@st.composite
def _runs(draw: st.DrawFn) -> tuple[list[int], set[int], set[int]]:
    rows = draw(st.lists(st.integers(1, 50), max_size=30))
    done = draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set()
    given_up = draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set()
    return rows, done, given_up


@given(_runs(), st.data())
def test_pending_and_done_are_all_and_the_accounts_balance(
    run: tuple[list[int], set[int], set[int]], data: st.DataObject
) -> None:
    rows, done, given_up = run
    shards = [shard(number, count) for number, count in enumerate(rows)]
    bad = {number: data.draw(st.integers(0, rows[number])) for number in done}
    receipts = {number: receipt(number, rows[number] - bad[number], bad[number]) for number in done}
    left = [item.number for item in pending(shards, receipts)]
    assert sorted([*left, *done]) == list(range(len(rows)))
    assert left == sorted(left)
    if set(left) <= given_up:
        accounting = account(shards, receipts, given_up)
        assert accounting.rows_in == sum(rows)
        assert accounting.documents + (accounting.quarantined_rows or 0) == sum(rows)
        assert accounting.quarantined_rows == sum(bad.values()) + sum(rows[number] for number in left)
    else:
        with pytest.raises(RunAborted, match="neither receipt nor quarantine"):
            account(shards, receipts, given_up)

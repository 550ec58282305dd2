"""The copy phase: parts and receipts of the base become the new run's, whole, however often it is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.driver.lock import DriverLock
from jobs.driver.signals import StopFlag, Stopped
from jobs.embed.context import DriverContext
from jobs.monitoring.metrics import RunMetrics
from jobs.publish.carry_over import carry_over
from jobs.state.ledger import Ledger
from jobs.state.stored_shards import pending
from tests.jobs.ledger_samples import RUN, receipt, shard
from tests.jobs.snapshot_samples import Killed
from workers.errors import RunAborted
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.store import Store

NEW = "20261121T100312Z-5e6f7a8b"
SHARDS = 6


class Frail(Store):
    """Dies at its n-th copy or receipt, before or after it took effect."""

    def __init__(self, uri: str, survive: int, *, after: bool) -> None:
        super().__init__(uri, {})
        self._left, self._after, self._turn = survive, after, threading.Lock()

    def copy(self, source: str, target: str) -> None:
        self._change(lambda: super(Frail, self).copy(source, target))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self._change(lambda: super(Frail, self).put_if_absent(path, data))
        return True

    def _change(self, change: Any) -> None:
        with self._turn:
            self._left -= 1
            if self._left >= 0 or self._after:
                change()
            if self._left < 0:
                raise Killed


def of_base(number: int) -> Receipt:
    """Two parts in partitions; of every other shard two pieces and a quarantine file."""
    pieces = ("-0", "-1") if number % 2 else ("",)
    files = tuple(
        OutputFile(f"data/{RUN}/lang={lang}/part-{number:07d}{piece}.parquet", 5, len(body(number, lang, piece)), "s", "d")
        for lang in ("de", "part-0000000") for piece in pieces
    )  # fmt: skip
    path = f"runs/{RUN}/quarantine/shard-{number:07d}.parquet"
    quarantine = OutputFile(path, 2, len(body(number, "q", "")), "s", "d") if number % 2 else None
    return replace(
        receipt(number, documents=5 * len(files), quarantined=2 if quarantine else 0),
        files=files, quarantine=quarantine, source_digest="x", epoch=77, adopted=True, token_histogram=(1, 2),
        repeated_rows=3, probed=4, probe_cosine=1.0, empty=1,
    )  # fmt: skip


def body(number: int, lang: str, piece: str) -> bytes:
    return f"{number} {lang} {piece}".encode()


def expected(number: int) -> dict[str, bytes]:
    """Files of the new run: shard n of the base is its shard 100 + n."""
    found = {}
    for file in of_base(number).files:
        lang, piece = (
            file.path.split("/")[2].removeprefix("lang="),
            file.path.rpartition("/")[2][12:].removesuffix(".parquet"),
        )
        found[f"data/{NEW}/lang={lang}/part-{100 + number:07d}{piece}.parquet"] = body(number, lang, piece)
    if number % 2:
        found[f"runs/{NEW}/quarantine/shard-{100 + number:07d}.parquet"] = body(number, "q", "")
    return found


@pytest.fixture
def todo(uri: str) -> list[Shard]:
    return base_at(uri)


def base_at(uri: str) -> list[Shard]:
    """The base on storage; what is to be carried over."""
    store = Store(uri, {})
    with Ledger(store, RUN) as ledger:
        for number in range(SHARDS):
            made = of_base(number)
            ledger.record(made)
            for file in made.files:
                lang, name = file.path.split("/")[2].removeprefix("lang="), file.path.rpartition("/")[2]
                store.put(file.path, body(number, lang, name[12:].removesuffix(".parquet")))
            if made.quarantine:
                store.put(made.quarantine.path, body(number, "q", ""))
    return [
        replace(shard(100 + number, rows=of_base(number).rows_read), carried=number, slices=shard(number, None).slices)
        for number in range(SHARDS)
    ]


@pytest.fixture
def lock(uri: str) -> Iterator[DriverLock]:
    with DriverLock(Store(uri, {})) as held:
        yield held


def go(store: Store, todo: list[Shard], lock: DriverLock, stop: StopFlag | None = None) -> int:
    with Ledger(store, NEW, guard=lock.guard) as ledger:
        missing = pending(todo, ledger.load())
        driver = DriverContext(lock, ledger, stop or StopFlag(), RunMetrics(), ExitStack())
        return len(carry_over(store, NEW, RUN, missing, driver))


def files_of(store: Store, run_id: str = NEW) -> dict[str, bytes]:
    found = store.list(f"data/{run_id}") | store.list(f"runs/{run_id}/quarantine")
    return {path: store.read(path) for path in found}


def test_parts_receipts_and_quarantine_are_those_of_the_base(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    store = Store(uri, {})
    before = files_of(store, RUN)
    assert go(store, todo, lock) == SHARDS
    assert files_of(store) == {path: data for number in range(SHARDS) for path, data in expected(number).items()}
    assert files_of(store, RUN) == before
    with Ledger(store, NEW) as ledger:
        receipts = ledger.load()
    for number in range(SHARDS):
        old, new = of_base(number), receipts[100 + number]
        assert new.carried_from == RUN
        assert (new.tokens, new.padded_tokens, new.stage_seconds, new.repeated_rows, new.probed) == (0, 0, {}, 0, 0)
        assert (new.token_histogram, new.probe_cosine, new.adopted) == (old.token_histogram, None, False)
        assert new.reused_rows == new.rows == old.rows
        assert (new.documents, new.rows_read, new.quarantined_rows) == (old.documents, old.rows_read, old.quarantined_rows)
        assert (new.truncated, new.empty, new.source_digest, new.epoch) == (old.truncated, old.empty, old.source_digest, 77)
        assert new.ended > 0
        files, were = [*new.files, new.quarantine], [*old.files, old.quarantine]
        assert [file and replace(file, path="") for file in files] == [file and replace(file, path="") for file in were]
        assert {file.path for file in files if file} == set(expected(number))


def test_again_it_does_nothing(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    store = Store(uri, {})
    go(store, todo, lock)
    kept = {path: store.read(path) for path in store.list(f"runs/{NEW}")}
    assert go(store, todo, lock) == 0
    assert {path: store.read(path) for path in store.list(f"runs/{NEW}")} == kept


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("survive", [0, 1, 2, 5, 11, 20])
def test_killed_anywhere_and_run_again_it_ends_the_same(tmp_path: Path, survive: int, after: bool) -> None:
    uri = str(tmp_path / "out")
    todo = base_at(uri)
    store = Store(uri, {})
    with DriverLock(store) as lock, pytest.raises(Killed):
        go(Frail(uri, survive, after=after), todo, lock)
    with Ledger(store, NEW) as ledger:
        for done in ledger.load().values():
            assert all(store.exists(file.path) for file in done.files), "the receipt comes last"
    with DriverLock(store) as lock:
        go(store, todo, lock)
    assert files_of(store) == {path: data for number in range(SHARDS) for path, data in expected(number).items()}
    with Ledger(store, NEW) as ledger:
        assert set(ledger.load()) == {shard.number for shard in todo}


def test_what_is_gone_or_of_another_size_stays_pending(
    uri: str, todo: list[Shard], lock: DriverLock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(uri, {})
    store.delete(of_base(0).files[1].path)
    store.put(of_base(1).files[0].path, b"cut")
    quarantine = of_base(3).quarantine
    assert quarantine is not None
    store.delete(quarantine.path)
    with Ledger(store, RUN) as ledger:
        ledger.drop([4])
    assert go(store, todo, lock) == 2
    assert f"parts of {len(todo) - 2} shards are gone" in caplog.text
    with Ledger(store, NEW) as ledger:
        assert sorted(ledger.load()) == [102, 105]


def test_a_base_that_is_gone_costs_only_the_reuse(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    store = Store(uri, {})
    for path in store.list(f"runs/{RUN}"):
        store.delete(path)
    assert go(store, todo, lock) == 0


def test_a_part_that_vanishes_while_it_is_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = str(tmp_path / "out")

    class Vanishing(Store):
        def copy(self, source: str, target: str) -> None:
            self.delete(of_base(2).files[1].path)
            super().copy(source, target)

    store, made = Vanishing(uri, {}), base_at(uri)
    with DriverLock(store) as lock:
        assert go(store, made, lock) == SHARDS - 1
    assert "gone; shard 102 is embedded" in caplog.text


def test_other_rows_than_the_manifest_has_are_not_carried(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    piece = replace(todo[0].slices[0], rows=4)
    assert go(Store(uri, {}), [replace(todo[0], slices=(piece,)), todo[1]], lock) == 1


def test_a_signal_ends_it_between_two_shards(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    stop = StopFlag()
    stop.number = 15
    with pytest.raises(Stopped):
        go(Store(uri, {}), todo, lock, stop)
    assert go(Store(uri, {}), todo, lock) <= SHARDS


def test_a_driver_that_lost_the_lock_writes_no_receipt(uri: str, todo: list[Shard]) -> None:
    store = Store(uri, {})
    with DriverLock(store) as lock:
        lock.lost.set()
        with pytest.raises(RunAborted, match="no longer holds"):
            go(store, todo, lock)
    assert store.list(f"runs/{NEW}/receipts") == {}


def test_a_receipt_that_names_files_of_others_is_not_carried(uri: str, todo: list[Shard], lock: DriverLock) -> None:
    store = Store(uri, {})
    stray = replace(of_base(0), files=(OutputFile("CURRENT.json", 10, 1, "", ""),))
    place = f"runs/{RUN}/receipts/00000/0000000.json"
    store.put(place, json.dumps(json.loads(stray.to_json())).encode())
    store.put("CURRENT.json", b"x")
    with Ledger(store, RUN) as ledger:
        ledger.drop([3])
        other = of_base(3)
        ledger.record(replace(other, files=(*other.files[:-1], of_base(5).files[0])))
    assert go(store, todo, lock) == SHARDS - 2
    with Ledger(store, NEW) as ledger:
        assert not {100, 103} & set(ledger.load())

"""CURRENT.json is flipped last, by the holder of the lock, onto files that are all there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.driver.lock import DriverLock
from jobs.publish.publish import Snapshot, publish
from jobs.state.current import Current, read_current
from tests.jobs.ledger_samples import RUN, part
from tests.jobs.snapshot_samples import Killed
from workers.errors import RunAborted
from workers.records.shard import OutputFile
from workers.storage.store import Store
from workers.table.paths import CURRENT

FACTS = {"documents": 50, "dim": 384, "model": {"name": "m"}, "rows": "not this", "weights_digest": "w"}
DATA = {number: b"x" * (number + 1) for number in range(5)}
FILES = [part(number, 10, data) for number, data in DATA.items()]
OTHER_RUN = f"data/{RUN}x/part-0000000.parquet"


class Frail(Store):
    """Dies at its n-th change of storage, before or after it took effect."""

    def __init__(self, uri: str, survive: int = 1 << 30, *, after: bool = False) -> None:
        super().__init__(uri, {})
        self.left, self.after, self.armed = survive, after, False

    def put(self, path: str, data: bytes) -> None:
        self._change(lambda: super(Frail, self).put(path, data))

    def delete(self, path: str) -> None:
        self._change(lambda: super(Frail, self).delete(path))

    def _change(self, change: Callable[[], None]) -> None:
        if self.armed:
            self.left -= 1
        dies = self.armed and self.left < 0
        if not dies or self.after:
            change()
        if dies:
            raise Killed


def _fill(store: Store) -> None:
    for number, file in enumerate(FILES):
        store.put(file.path, DATA[number])
    for orphan in ("lang=de/part-0000009.parquet", "lang=fr/part-0000001.parquet", ".part-0000001.parquet.ab.tmp"):
        store.put(f"data/{RUN}/{orphan}", b"left behind")
    store.put(OTHER_RUN, b"another run's")


def _publish(store: Store, files: list[OutputFile] | None = None) -> Any:
    with DriverLock(store) as lock:
        return publish(Snapshot(store, RUN, FILES if files is None else files, FACTS), lock)


def test_a_snapshot_is_published(uri: str) -> None:
    store = Store(uri, {})
    _fill(store)
    assert read_current(store) is None
    assert _publish(store) is None
    current = read_current(store)
    assert current is not None
    assert (current.run_id, current.data, current.data_path) == (RUN, f"{uri}/data/{RUN}", f"data/{RUN}")
    assert current.rows == 50
    assert current.facts == {key: value for key, value in FACTS.items() if key != "rows"}
    assert Current.from_json(current.to_json()) == current
    assert json.loads(store.read(CURRENT))["dim"] == 384
    assert set(store.list("data")) == {OTHER_RUN, *(file.path for file in FILES)}, "leftovers go, another run's files stay"


def test_missing_and_altered_parts_are_reported_and_nothing_is_changed(uri: str) -> None:
    store = Store(uri, {})
    _fill(store)
    store.delete(FILES[3].path)
    store.put(FILES[1].path, b"another size")
    before = store.list("data")
    damaged = _publish(store)
    assert damaged.shards == (1, 3)
    assert damaged.files == (FILES[1].path, FILES[3].path)
    assert store.list("data") == before
    assert not store.exists(CURRENT)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("survive", range(4))
def test_killed_anywhere_and_run_again_it_ends_the_same(tmp_path: Path, survive: int, after: bool) -> None:
    """Three orphans and CURRENT.json: four changes, and death before or after each."""
    uri = str(tmp_path)
    old = Store(uri, {})
    _fill(old)
    old.put(CURRENT, Current("old", "d", "d", 1, "t", "0").to_json())
    frail = Frail(uri, survive, after=after)
    with DriverLock(old) as lock:
        frail.armed = True
        with pytest.raises(Killed):
            publish(Snapshot(frail, RUN, FILES, FACTS), lock)
    current = read_current(old)
    assert current is not None
    flipped = survive == 3 and after
    assert current.run_id == (RUN if flipped else "old")
    assert all(old.exists(file.path) for file in FILES)
    assert _publish(old) is None
    current = read_current(old)
    assert current is not None
    assert current.run_id == RUN
    assert set(old.list("data")) == {OTHER_RUN, *(file.path for file in FILES)}


def test_a_driver_that_lost_the_lock_removes_and_flips_nothing(uri: str) -> None:
    store = Store(uri, {})
    _fill(store)
    before = store.list("data")
    with DriverLock(store) as lock:
        mine = f"runs/lock/{lock.generation:08d}.json"
        store.put(f"runs/lock/{lock.generation + 1:08d}.json", store.read(mine))
        with pytest.raises(RunAborted, match="no longer holds"):
            publish(Snapshot(store, RUN, FILES, FACTS), lock)
    assert store.list("data") == before
    assert not store.exists(CURRENT)


def test_a_lock_lost_while_sweeping_stops_the_flip(tmp_path: Path) -> None:
    class Robbed(Store):
        def delete(self, path: str) -> None:
            super().delete(path)
            if path.startswith("data/"):
                self.put("runs/lock/00000002.json", self.read("runs/lock/00000001.json"))

    store = Robbed(str(tmp_path), {})
    _fill(store)
    with pytest.raises(RunAborted, match="no longer holds"):
        _publish(store)
    assert not store.exists(CURRENT)


def test_without_the_lock_nothing_is_published(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    _fill(store)
    with pytest.raises(RunAborted, match="does not hold"):
        publish(Snapshot(store, RUN, FILES, FACTS), DriverLock(store))
    assert not store.exists(CURRENT)


def test_an_empty_run_is_a_snapshot_too(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    assert _publish(store, []) is None
    current = read_current(store)
    assert current is not None
    assert current.rows == 0

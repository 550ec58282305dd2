"""Shards in memory and on disk: the same vectors, and no more memory than allowed."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from workers.vectors.shard_cache import ShardCache
from workers.vectors.shard_rows import PartSpan, ShardRows

ROWS, DIM = 100, 8


def _shard(number: int) -> ShardRows:
    stored = np.random.default_rng(number).standard_normal((ROWS, DIM)).astype(np.float32)
    span = PartSpan(f"part-{number}", 0, ROWS, "")
    columns = pa.table({"id": [f"{number}-{row}" for row in range(ROWS)]})
    return ShardRows(number, number * ROWS, [span], [stored], lambda cells: np.asarray(cells, np.float32), columns)


def test_what_does_not_fit_is_mapped_from_files(tmp_path: Path) -> None:
    one = _shard(0).stored_bytes
    cache = ShardCache(tmp_path, memory_bytes=2 * one)
    loaded: list[int] = []

    def load(number: int) -> ShardRows:
        loaded.append(number)
        return _shard(number)

    for _ in range(3):
        for number in range(5):
            rows = cache.get(number, lambda number=number: load(number))  # type: ignore[misc]
            assert (rows.take(np.arange(ROWS), unit=False) == _shard(number).stored[0]).all()
    assert loaded == [0, 1, 2, 3, 4], "each is read once"
    in_memory = [number for number in range(5) if cache.get(number, lambda: _shard(0)).stored[0].flags.owndata]
    assert len(in_memory) == 2
    assert len(list(tmp_path.iterdir())) >= 3
    cache.release(0)
    assert (cache.get(0, lambda: _shard(0)).take(np.arange(ROWS), unit=False) == _shard(0).stored[0]).all()


def test_columns_and_what_is_remembered_leave_memory_too(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, memory_bytes=0)
    made: list[int] = []

    def keys(number: int) -> tuple[NDArray[np.int64], list[str]]:
        made.append(number)
        return np.arange(ROWS) + number, ["plain"]

    held = pa.total_allocated_bytes()
    for turn in range(3):
        for number in range(20):
            rows = cache.get(number, lambda number=number: _shard(number))  # type: ignore[misc]
            found, plain = rows.remember("keys", lambda number=number: keys(number))  # type: ignore[misc]
            assert (found == np.arange(ROWS) + number).all()
            assert plain == ["plain"]
            assert rows.column("id").to_pylist() == _shard(number).column("id").to_pylist()
            assert turn == 0 or number == 19 or not (found.flags.owndata or found.flags.writeable)
            cache.release(number)
    assert made == list(range(20))
    assert pa.total_allocated_bytes() - held <= 2 * _shard(0).columns.nbytes
    cache.drop(0)
    assert cache.get(0, lambda: _shard(7)).number == 7, "a shard that was dropped is read again"


def test_one_thread_drops_what_another_one_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last pass drops each shard that is written, while the reading of the next one sends it to the disk."""
    cache, leave = ShardCache(tmp_path, memory_bytes=0), ShardRows.leave_memory

    def dropped_meanwhile(rows: ShardRows, mapped: Callable[[Any], Any]) -> None:
        cache.drop(rows.number)
        leave(rows, mapped)

    monkeypatch.setattr(ShardRows, "leave_memory", dropped_meanwhile)
    first = cache.get(0, lambda: _shard(0))
    cache.get(1, lambda: _shard(1))
    cache.release(0)
    assert (first.take(np.arange(ROWS), unit=False) == _shard(0).stored[0]).all()


def test_two_threads_send_a_shard_to_the_disk(tmp_path: Path) -> None:
    """One because memory is full, the other because its call has ended: each gets the file that it has written."""
    cache = ShardCache(tmp_path, memory_bytes=0)
    other = tmp_path / "other"
    other.write_bytes(b"\xff" * (ROWS * DIM * 4))

    class Shared(list[mmap.mmap]):
        """The maps of a shard, to which another thread adds one of its own right after this one."""

        def append(self, pages: mmap.mmap) -> None:
            super().append(pages)
            with other.open("rb") as stream:
                super().append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    first = cache.get(0, lambda: _shard(0))
    cache._maps[0] = Shared()
    cache.get(1, lambda: _shard(1))
    assert len(cache._maps[0]) == 4, "vectors and columns, and the other thread's"
    assert (first.take(np.arange(ROWS), unit=False) == _shard(0).stored[0]).all()
    assert first.column("id").to_pylist() == _shard(0).column("id").to_pylist()

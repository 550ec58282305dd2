"""The stored cut: written once, refused for another fingerprint, quick to load."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.state.manifest import load_manifest, save_manifest
from workers.errors import RunAborted, UsageError
from workers.records.shard import ObjectSlice, Shard
from workers.storage.store import Store

MIB = 1 << 20


def shards_of(count: int, each: int = 50) -> list[Shard]:
    pieces = [
        ObjectSlice(f"s3://bucket/corpus/lang=fr/part-{n:07d}.parquet", 1000 + n, f"etag-{n:032x}", n % 3, n % 3 + 2,
                    None if n % 5 == 0 else n, n % 7 or None, (("lang", "fr"), ("day", None if n % 2 else "a/é")))
        for n in range(count)
    ]  # fmt: skip
    return [Shard(at, tuple(pieces[at * each : (at + 1) * each]), at * 17) for at in range(-(-count // each))]


def test_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    shards = [*shards_of(120), Shard(3, (ObjectSlice("file:///x", 0, "", 0, 0),), 0)]
    assert save_manifest(store, "runs/r/manifest.parquet", shards, "print") == shards
    assert load_manifest(store, "runs/r/manifest.parquet") == (shards, "print")
    assert save_manifest(store, "runs/empty.parquet", [], "print") == []
    assert load_manifest(store, "runs/empty.parquet", "print") == ([], "print")


def test_what_is_reused_comes_back_with_the_shard_it_concerns(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    shards = shards_of(200, each=20)
    parts = tuple(f"data/base/lang=fr/part-000000{n}.parquet" for n in range(3))
    shards[0] = replace(shards[0], carried=0)
    shards[3] = replace(shards[3], carried=7)
    shards[4] = replace(shards[4], earlier=parts)
    shards[9] = replace(shards[9], earlier=parts[:1])
    save_manifest(store, "m", shards, "print")
    assert load_manifest(store, "m") == (shards, "print")


def test_a_manifest_of_a_version_that_reused_nothing(tmp_path: Path) -> None:
    store, shards = Store(str(tmp_path), {}), shards_of(120)
    save_manifest(store, "m", shards, "print")
    table = pq.read_table(tmp_path / "m").drop_columns(["carried", "earlier"])
    pq.write_table(table, tmp_path / "old")
    assert load_manifest(store, "old") == (shards, "print")


def test_manifest_is_written_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    first = shards_of(100)
    save_manifest(store, "m", first, "print")
    assert save_manifest(store, "m", shards_of(200), "print") == first
    with pytest.raises(UsageError, match="made for fingerprint print, this is other"):
        save_manifest(store, "m", shards_of(200), "other")
    with pytest.raises(UsageError, match="made for fingerprint print, this is other"):
        load_manifest(store, "m", "other")
    with pytest.raises(FileNotFoundError):
        load_manifest(store, "nowhere")
    data = store.read("m")
    for broken in (data[:100], b"", data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]):
        store.put("broken", broken)
        with pytest.raises(RunAborted, match=r"manifest .*broken is damaged"):
            load_manifest(store, "broken")


@pytest.mark.slow
def test_two_hundred_thousand_slices_load_in_moments(tmp_path: Path) -> None:
    store = Store(str(tmp_path), {})
    shards = [replace(shard, carried=None if shard.number % 2 else shard.number) for shard in shards_of(200_000)]
    save_manifest(store, "m", shards, "print")
    began = time.process_time()
    loaded, _ = load_manifest(store, "m", "print")
    assert time.process_time() - began < 3
    assert loaded == shards

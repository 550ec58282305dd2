"""A disk that is full below the output ends the run after one budget of retries, and the same command resumes it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import yaml

import workers.storage.store
from tests.local_replicas import local_embed
from workers.storage.local import write_local
from workers.storage.store import Store

BUDGET = 0.5  # seconds, in place of a minute

pytestmark = pytest.mark.slow


def test_the_run_ends_at_the_first_shard_that_finds_no_room(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(6):
        lines = [json.dumps({"id": f"{number}-{line}", "text": f"text {line} of {number}"}) for line in range(50)]
        (tmp_path / "corpus" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    config = {
        "corpus": {"uri": f"{tmp_path}/corpus/", "id": "id"},
        "model": {"name": str(small_model), "precision": "float32"},
        "output": {"uri": str(tmp_path / "out")},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
        "run": {"shard_bytes": "1KiB"},
    }
    (tmp_path / "q.yaml").write_text(yaml.safe_dump(config))
    refused: list[str] = []

    def full(target: Path, data: bytes, *, create: bool) -> bool:
        if "/data/" in str(target):
            refused.append(target.name)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_local(target, data, create=create)

    monkeypatch.setattr(workers.storage.store, "write_local", full)
    monkeypatch.setitem(Store.__init__.__kwdefaults__ or {}, "retry_seconds", BUDGET)
    ended = local_embed(tmp_path / "q.yaml")
    assert ended.rc == 4, ended.log
    last = ended.log.splitlines()[-1]
    assert "no room is left there" in last
    assert "No space left on device" in last
    assert "run the same command again to resume" in last
    assert len(set(refused)) <= 2, "the shards that were in flight, and none after them"

    monkeypatch.setattr(workers.storage.store, "write_local", write_local)
    resumed = local_embed(tmp_path / "q.yaml")
    assert (resumed.rc, resumed.summary["documents"]) == (0, 300), resumed.log

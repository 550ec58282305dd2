"""Real small disks (tmpfs, mounted by root): full below the output, or below the replicas' temporary folder."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.faults.strikes import full
from tests.local_replicas import local_embed
from workers.storage.store import Store

ROWS = 300
BUDGET = 0.5  # seconds, in place of a minute

pytestmark = [pytest.mark.slow]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here (root is needed)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def configured(folder: Path, model: Path, output: Path) -> Path:
    (folder / "corpus").mkdir()
    for number in range(6):
        lines = [json.dumps({"id": f"{number}-{line}", "text": f"text {line} of {number}"}) for line in range(ROWS // 6)]
        (folder / "corpus" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    config = {
        "corpus": {"uri": f"{folder}/corpus/", "id": "id"},
        "model": {"name": str(model), "precision": "float32"},
        "output": {"uri": str(output)},
        "cluster": {"replicas": 1, "cpus_per_replica": 1},
        "run": {"shard_bytes": "1KiB"},
    }
    (folder / "q.yaml").write_text(yaml.safe_dump(config))
    return folder / "q.yaml"


def test_the_disk_of_the_output_has_no_room(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Store.__init__.__kwdefaults__ or {}, "retry_seconds", BUDGET)
    with small_disk(tmp_path / "disk", "128k") as disk:
        config = configured(tmp_path, small_model, disk / "out")
        ended = local_embed(config)
        last = ended.log.splitlines()[-1]
        assert ended.rc == 4, ended.log
        assert "no room is left there" in last
        assert "No space left on device" in last
        assert list(disk.rglob("*.tmp")) == [], "no temporary file stays on a disk that is full"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        for claim in (disk / "out" / "runs" / "lock").iterdir():
            claim.unlink()  # not releasable on a full disk, and its holder, this process, does not end here
        resumed = local_embed(config)
        assert (resumed.rc, resumed.summary["documents"]) == (0, ROWS), resumed.log


def test_the_disk_of_the_temporary_folder_has_no_room(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three attempts, not one and twenty; and no shard is quarantined for it."""
    config = configured(tmp_path, small_model, tmp_path / "out")
    with small_disk(tmp_path / "disk", "1m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with full(disk):
            ended = local_embed(config)
        last = ended.log.splitlines()[-1]
        assert ended.rc == 4, ended.log
        assert f"spill folder {disk}/reembed-spool" in last
        assert "No space left on device; free space there, or use a larger disk" in last
        assert ended.log.count("(disk)") <= 4, ended.log
        resumed = local_embed(config)
        assert (resumed.rc, resumed.summary["documents"]) == (0, ROWS), resumed.log
        assert resumed.summary["quarantined_rows"] == 0

"""A replica that is thawed after its shard was done elsewhere and published: the snapshot does not change.

The driver is killed while its cluster is frozen, so nobody ends the replicas; another driver does the run, by a Ray of its
own. Then the replicas alone thaw in the middle of their shards, with nobody to hear them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from jobs.commands.verify import verify_snapshot
from tests.drivers import Driver, committed, embed
from tests.faults.conftest import LONG, Calm
from tests.ray_nodes import RayNode

pytestmark = [pytest.mark.ray, pytest.mark.slow, LONG]

AT_WORK_SECONDS = 0.3  # after a replica is ready: in the middle of its shard
ZOMBIE_SECONDS = 300.0  # many times what a shard takes, on a machine that does other things as well


def standing(output: Path) -> dict[str, tuple[bytes, int]]:
    """What was put, by path, with its inode: a file replaced by the same bytes shows. Without announcements."""
    files = [path for path in output.rglob("*.*") if path.is_file() and path.parent.name != "staged"]
    return {str(path.relative_to(output)): (path.read_bytes(), path.stat().st_ino) for path in files}


def ready(log: str) -> list[int]:
    """pids of the replicas that were ready so far, in this order."""
    return [int(pid) for pid in re.findall(r"replica \d+ ready: .*\bpid (\d+)", log)]


def long_shards(source: Path, target: Path) -> Path:
    """Two objects, and so two shards, that take a replica seconds each."""
    documents = [json.loads(line) for path in sorted(source.glob("*.jsonl")) for line in path.read_text().splitlines()]
    target.mkdir()
    for number in (0, 1):
        rows = [json.dumps(document | {"text": f"{document['text']} " * 3}) + "\n" for document in documents[number:200:2]]
        (target / f"part-{number}.jsonl").write_text("".join(rows))
    return target


def test_a_thawed_replica_changes_nothing(calm: Calm, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = calm.configure(tmp_path, corpus=long_shards(calm.corpus, tmp_path / "corpus"))
    with RayNode(2) as head, Driver(config, "run.shard_bytes=192KiB", f"cluster.address={head.address}") as first:
        replicas: list[int] = []
        while len(replicas) < 2:  # each is frozen a moment after it got its shard, however long the other takes
            replicas.append(first.until(lambda: next((pid for pid in ready(first.log) if pid not in replicas), None)))
            time.sleep(AT_WORK_SECONDS)
            os.kill(replicas[-1], signal.SIGSTOP)
        for pid in psutil.pids():
            if head.holds(pid) and pid not in replicas:
                with contextlib.suppress(ProcessLookupError):  # Ray has some that do not stay
                    os.kill(pid, signal.SIGSTOP)
        os.kill(first.pid, signal.SIGKILL)
        assert committed(output) == {}, "both are in the middle of a shard"
        ended = embed(config, "run.shard_bytes=192KiB")  # by a Ray of its own
        assert ended.rc == 0, ended.log
        before, current = standing(output), (output / "CURRENT.json").read_bytes()
        staged = output / "runs" / ended.summary["run_id"] / "staged"
        announced = {path.name: path.stat().st_mtime_ns for path in staged.glob("*.json")}
        for pid in replicas:
            os.kill(pid, signal.SIGCONT)
        end, again = time.monotonic() + ZOMBIE_SECONDS, set[str]()
        while len(again) < len(replicas) and time.monotonic() < end:
            time.sleep(0.2)
            again = {path.name for path in staged.glob("*.json") if path.stat().st_mtime_ns != announced.get(path.name)}
        time.sleep(2)  # for the parts that were announced
    assert len(again) == len(replicas), "the zombies did not come as far as their parts: nothing was shown"
    after = standing(output)
    assert {path for path in before | after if before.get(path) != after.get(path)} == set()
    assert (output / "CURRENT.json").read_bytes() == current
    assert verify_snapshot(str(config), 0)["findings"] == []

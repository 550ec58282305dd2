"""Replicas that die: by accident anywhere, with their node, or always on the same shard."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from tests.drivers import Driver, Snapshot, committed, docstrings_corpus, embed, receipts
from tests.faults.conftest import LONG, Calm
from tests.local_replicas import local_embed
from tests.ray_nodes import RayCluster, RayNode
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

POISON = Path(__file__).parent / "poison"
KILLS = int(os.environ.get("REEMBED_REPLICA_KILLS", "2"))
LOST = r"replica (\d+) lost: "


def _replicas_alive(log: str) -> dict[int, int]:
    """Number -> pid of those that were ready and were not lost."""
    ready = {int(number): int(pid) for number, pid in re.findall(r"replica (\d+) ready: .*\bpid (\d+)", log)}
    return {number: pid for number, pid in ready.items() if str(number) not in re.findall(LOST, log)}


def test_killed_in_the_middle_of_a_shard(calm: Calm, tmp_path: Path, ray_head: RayCluster) -> None:
    """`REEMBED_REPLICA_KILLS=20` for as many, in one run, as the promise names: one at a time, whichever came last."""
    with Driver(calm.configure(tmp_path), f"cluster.address={ray_head.address}") as driver:
        driver.replica(1)
        for number in range(KILLS):
            least = max(1, number * calm.shards * 2 // 3 // KILLS)
            driver.until(lambda: len(receipts(tmp_path / "out")) >= least)  # noqa: B023 - called here and now
            alive = driver.until(lambda: _replicas_alive(driver.log))
            os.kill(alive[max(alive)], signal.SIGKILL)
            driver.until(lambda: len(re.findall(LOST, driver.log)) > number)  # noqa: B023 - as above
        ended = driver.end()
    assert ended.rc == 0, ended.log
    assert len(re.findall(LOST, ended.log)) == KILLS, ended.log
    summary = ended.summary
    assert summary["attempts"] > calm.shards, "some were in the middle of a shard"
    assert (summary["quarantined_rows"], summary["shards"]["quarantined"]) == (0, 0)
    assert Snapshot.read(summary["data"]).same_bits(calm.snapshot)


def _poisoned_document(corpus: Path) -> dict[str, Any]:
    """Some document in the middle of the corpus that no other one quotes."""
    lines = (corpus / "part-1.jsonl").read_text().splitlines()
    document: dict[str, Any] = json.loads(lines[len(lines) // 2])
    return document


@pytest.mark.parametrize("how", ["kill", pytest.param("raise", marks=LONG)])
def test_a_poisoned_shard_is_quarantined_alone(how: str, calm: Calm, tmp_path: Path) -> None:
    poisoned = _poisoned_document(calm.corpus)
    env = {"REEMBED_POISON": poisoned["text"], "REEMBED_POISON_HOW": how, "PYTHONPATH": f"{POISON}:{ROOT}"}
    config = calm.configure(tmp_path)
    refused = embed(config, "run.max_attempts=2", env=env)
    assert refused.rc == 3, refused.log
    summary = refused.summary
    assert (summary["published"], summary["quarantined_rows_is_minimum"]) == (False, True)
    assert summary["shards"] == {"planned": calm.shards, "done": calm.shards - 1, "quarantined": 1}
    ((number, reason),) = summary["quarantined_shards"].items()
    words = {"kill": "died", "raise": "ArithmeticError: the poison works"}[how]
    assert words in reason
    tried = re.search(r"failed attempts: 2, on replicas (\d+), (\d+)", reason)
    assert tried, reason
    assert tried[1] != tried[2]

    # every other shard's rows are there, with the same vectors
    run = tmp_path / "out" / "runs" / summary["run_id"]
    entries = ds.dataset(run / "quarantine").to_table().to_pylist()
    assert {(entry["shard"], Path(entry["object"]).name) for entry in entries} == {(int(number), "part-1.jsonl")}
    assert all(words in entry["reason"] for entry in entries)
    assert not (tmp_path / "out" / "CURRENT.json").exists()
    rows = Snapshot.read(summary["data"])
    assert len(set(rows.ids)) == len(rows.ids) == summary["documents"]
    assert poisoned["id"] not in rows.ids
    where = [calm.snapshot.ids.index(name) for name in rows.ids]
    assert Snapshot(rows.ids, calm.snapshot.vectors[where]).same_bits(rows)

    # the same command without the poison: that shard and no other
    before = committed(tmp_path / "out")
    healed = local_embed(config, "run.max_attempts=2")
    assert healed.rc == 0, healed.log
    assert ": 1 shards to embed" in healed.log
    assert before.items() <= committed(tmp_path / "out").items()
    assert (healed.summary["quarantined_rows"], healed.summary["quarantined_shards"]) == (0, {})
    assert Snapshot.read(healed.summary["data"]).same_bits(calm.snapshot)
    assert not (run / "quarantine").exists() or not list((run / "quarantine").iterdir())


def test_a_lost_node_is_charged_to_nobody(calm: Calm, tmp_path: Path) -> None:
    """One attempt is all a shard has here: charged with the loss of its node, it would be quarantined.

    The last of the two shards is not fetched ahead while a replica still starts, so the second replica, whenever it is
    ready, has just this one in flight: its death could be charged to nothing else.
    """
    ids = docstrings_corpus(tmp_path / "corpus", 240, objects=2)  # two shards
    config = calm.configure(tmp_path, corpus=tmp_path / "corpus")
    settings = ["run.max_attempts=1", "run.shard_bytes=64KiB"]
    with (
        RayNode(1) as head,
        RayNode(1, head) as other,
        Driver(config, *settings, f"cluster.address={head.address}") as driver,
    ):
        pids = driver.freeze_as_they_come(2)
        (victim,) = [number for number, pid in pids.items() if other.holds(pid)]
        other.kill()
        os.kill(pids[1 - victim], signal.SIGCONT)
        ended = driver.end()
    assert ended.rc == 0, ended.log
    assert re.findall(r"replica (\d+) lost: ", ended.log) == [str(victim)], ended.log
    summary = ended.summary
    assert (summary["shards"], summary["attempts"]) == ({"planned": 2, "done": 2, "quarantined": 0}, 3), ended.log
    assert Snapshot.read(summary["data"]).ids == sorted(ids)

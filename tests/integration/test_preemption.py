"""A node that has had notice of its end, from Kubernetes or a spot market: what dies there is charged to nobody."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Driver, Snapshot, configure, docstrings_corpus
from tests.ray_nodes import RayNode

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_death_after_the_notice(tmp_path: Path, minilm: Path, isolated_home: Path) -> None:
    """The node gets SIGTERM, drains, and its replica is killed before the node itself is gone.

    One attempt is all a shard has here: charged with that death, it would be quarantined, and the run refused. The last
    of the two shards is not fetched ahead while a replica still starts, so each replica has one in flight.
    """
    ids = docstrings_corpus(corpus := tmp_path / "corpus", 240, objects=2)
    run: dict[str, Any] = {"replicas": 2, "max_attempts": 1, "shard_bytes": "64KiB"}
    with RayNode(1) as head, RayNode(1, head) as other:
        config = configure(tmp_path / "run.yaml", corpus, tmp_path / "out", minilm, address=head.address, **run)
        with Driver(config) as driver:
            pids = driver.freeze_as_they_come(2)
            (victim,) = [number for number in pids if other.holds(pids[number])]
            os.kill(pids[1 - victim], signal.SIGCONT)
            other.terminate()
            other.wait_for_notice()
            assert other.holds(pids[victim]), "Ray leaves what runs there half a minute"
            os.kill(pids[victim], signal.SIGKILL)
            ended = driver.end()
    assert ended.rc == 0, ended.log
    assert re.findall(r"replica (\d+) lost: ", ended.log) == [str(victim)], ended.log
    assert ended.summary["shards"] == {"planned": 2, "done": 2, "quarantined": 0}
    assert Snapshot.read(ended.summary["data"]).ids == sorted(ids)

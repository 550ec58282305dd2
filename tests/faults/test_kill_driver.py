"""The driver and all it started killed at random moments, started again by the same command: nothing tells in the end.

On S3; in a local folder test_kill_night.py does so as well, and this one with REEMBED_FAULTS=all.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import s3fs

from tests.drivers import NODE_AGENTS, Driver, Leftovers, Snapshot, committed, embed, receipts
from tests.faults.conftest import LONG, Calm, undisturbed
from tests.ray_nodes import RayCluster

SEED = 20260117
KILLS = int(os.environ.get("REEMBED_DRIVER_KILLS", "3"))  # 20 for as many as the promise names
REACH = 0.6  # how far into the run, so that there is something left for the end
DOCUMENTS = max(320, 100 * KILLS)  # some ten shards to a kill: as many as fast replicas commit before it comes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread, pytest.mark.timeout(900 + 100 * KILLS)]


@pytest.fixture(scope="module")
def calm(calm: Calm, tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Calm:
    """The one that others share, or one that is long enough for so many kills."""
    longer = len(calm.snapshot.ids) < DOCUMENTS
    return undisturbed(tmp_path_factory.mktemp("calm"), minilm, DOCUMENTS) if longer else calm


def _places(calm: Calm, folder: Path, bucket: str | None) -> Path:
    if bucket is None:
        return calm.configure(folder, replicas=1)
    fs = s3fs.S3FileSystem()
    fs.put(str(calm.corpus) + "/", f"{bucket}/corpus", recursive=True)
    return calm.configure(folder, corpus=f"s3://{bucket}/corpus", output=f"s3://{bucket}/out")


@pytest.mark.parametrize("place", [pytest.param("local", marks=LONG), pytest.param("s3", marks=pytest.mark.s3)])
def test_killed_at_random_and_resumed(
    place: str, calm: Calm, tmp_path: Path, leftovers: Leftovers, ray_head: RayCluster, request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue("s3_bucket") if place == "s3" else None
    config = _places(calm, tmp_path, bucket)
    output = f"s3://{bucket}/out" if bucket else str(tmp_path / "out")
    chance = random.Random(f"{SEED} {place}")
    # one moment while everything still starts, the others at work: at so many receipts and a little later
    moments = [0, *sorted(chance.sample(range(1, int(calm.shards * REACH)), KILLS - 1))]
    print(f"seed {SEED} {place}: killed at receipts {moments}")
    standing: dict[str, bytes] = {}
    for moment in moments:
        with Driver(config) as driver:
            if moment == 0:
                time.sleep(chance.uniform(1.0, 6.0))
            if moment:  # and something of its own: else it may be killed before it has begun
                least = max(moment, len(standing) + 1)
                driver.until(lambda: len(receipts(output)) >= least)  # noqa: B023 - called here and now
            time.sleep(chance.uniform(0, 0.3))
            assert driver.running, "the corpus is too short for this machine"
            if moment == moments[1]:  # as the kernel's out-of-memory killer does; else as a container that is lost
                driver.send(signal.SIGKILL)
            else:
                driver.kill()
            now = committed(output)
            assert standing.items() <= now.items(), "a commit is never taken back or written again"
            standing = now
            assert leftovers.take(driver) == [], "a killed driver's Ray ends with it"
    assert 0 < len(standing) < calm.shards

    # by another Ray; on S3 by one whose workers have the keys of this environment
    ended = embed(config) if bucket else embed(config, f"cluster.address={ray_head.address}")
    assert ended.rc == 0, ended.log
    resumed = re.search(r"resuming \S+: (\d+) of (\d+) shards are done", ended.log)
    assert resumed, ended.log
    assert (int(resumed[1]), int(resumed[2])) == (len(standing), calm.shards)
    assert f"{calm.shards - len(standing)} shards to embed" in ended.log, "what is committed is not computed again"
    assert standing.items() <= committed(output).items()
    summary = ended.summary
    assert (summary["published"], summary["documents"], summary["quarantined_rows"]) == (True, DOCUMENTS, 0)
    assert summary["sessions"] >= len(moments)
    print(f"{summary['reembedded_rows']} documents embedded twice, {summary['adopted_shards']} shards adopted")
    assert 0 <= summary["reembedded_rows"] < DOCUMENTS
    assert Snapshot.read(summary["data"]).same_bits(calm.snapshot)


@LONG
def test_nothing_of_its_ray_stays_for_good(calm: Calm, tmp_path: Path) -> None:
    """Work ends at once; the node's two agents, idle, a minute later."""
    with Driver(calm.configure(tmp_path)) as driver:
        driver.replica(0)
        assert {process.name() for process in driver.family()} >= NODE_AGENTS
        driver.send(signal.SIGKILL)
        assert driver.family_gone(30) == []
        assert driver.family_gone(besides=()) == []


@LONG
def test_its_raylet_is_killed(calm: Calm, tmp_path: Path) -> None:
    """Ray takes such a driver for dead, though it lives: no replica of its own could ever work again."""
    config = calm.configure(tmp_path)
    with Driver(config) as driver:
        frozen: set[int] = set()

        def freeze() -> bool:
            """Again and again: the kernel wakes what is stopped when its parent dies, and the run would soon be through."""
            ready = re.findall(r"replica \d+ ready: .*\bpid (\d+)", driver.log)
            for pid in map(int, ready):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    frozen.add(pid)
            return len(frozen) == 2

        driver.until(freeze)
        (raylet,) = [process for process in driver.family() if process.name() == "raylet"]
        raylet.kill()
        driver.until(lambda: freeze() and not driver.running)
        ended = driver.end()
        for replica in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(replica, signal.SIGCONT)
        assert driver.family_gone() == []
    assert ended.rc == 4, ended.log
    assert "the Ray node that this driver runs on was lost" in ended.stdout
    assert ended.seconds < 240, "Ray takes a node for lost after some ten seconds without a heartbeat"
    resumed = embed(config)
    assert resumed.rc == 0, resumed.log
    assert Snapshot.read(resumed.summary["data"]).same_bits(calm.snapshot)

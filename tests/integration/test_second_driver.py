"""Two drivers on one output, and drivers that are asked to stop: one works, nothing is harmed, the next gets in at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from jobs.commands.verify import verify_snapshot
from tests.conftest import Cli
from tests.drivers import TIME_TO_TIDY, Driver, Leftovers, Snapshot, configure, receipts
from tests.local_replicas import local_embed
from tests.ray_nodes import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

Corpus = tuple[Path, list[str]]


def test_a_second_driver_is_refused(corpus: Corpus, tmp_path: Path, minilm: Path, ray_head: RayCluster, cli: Cli) -> None:
    output = tmp_path / "out"
    config = configure(tmp_path / "run.yaml", corpus[0], output, minilm, address=ray_head.address, shard_bytes="4KiB")
    with Driver(config) as first:
        first.until(lambda: receipts(output))
        os.kill(first.replica(0), signal.SIGSTOP)  # so that the run lasts, however fast the machine
        # the same command, and one with other settings: they would write below the same output
        for overrides in ([], ["model.pooling=cls"]):
            runs = sorted(path.name for path in (output / "runs").iterdir())
            began = time.monotonic()
            second = cli("embed", config, *overrides, "--json")
            seconds = time.monotonic() - began
            assert first.running, "the corpus is too short for this machine"
            assert second.rc == 4, second.stderr
            assert seconds < 120, "it waited; the run before it lasts as long as its replica is stopped"
            message = second.json()["error"]
            assert str(first.pid) in message
            assert socket.gethostname() in message
            assert "Traceback" not in second.stderr
            assert sorted(path.name for path in (output / "runs").iterdir()) == runs
        os.kill(first.replica(0), signal.SIGCONT)
        status = cli("status", output, "--json").json()
        assert status["state"] == "running"
        assert 0 < status["shards"]["done"] <= status["shards"]["planned"]
        ended = first.end()
    assert ended.rc == 0, ended.log
    assert Snapshot.read(ended.summary["data"]).ids == sorted(corpus[1])
    assert ended.summary["attempts"] == ended.summary["shards"]["planned"], "nothing was done twice"
    assert verify_snapshot(str(output), 0)["findings"] == []


def test_stopped_by_signals_and_resumed(
    corpus: Corpus, tmp_path: Path, minilm: Path, cli: Cli, leftovers: Leftovers
) -> None:
    """`ray job stop` sends SIGTERM; Ctrl-C in a terminal goes to the local Ray as well."""
    output = tmp_path / "out"
    config = configure(tmp_path / "run.yaml", corpus[0], output, minilm, shard_bytes="4KiB")
    done = 0
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with Driver(config, env=TIME_TO_TIDY) as driver:
            driver.until(lambda: len(receipts(output)) > done + 2)  # noqa: B023 - called here and now
            stopped = driver.send(number, group=number == signal.SIGINT)
            assert (stopped.rc, stopped.summary["exit_status"]) == (status, status), stopped.log
            assert "run the same command again to resume" in stopped.log.splitlines()[-1]
            assert "looking for signs of life" not in stopped.log
            assert "taking over" not in stopped.log, "the driver before it released the lock"
            assert leftovers.take(driver) == []
        told = cli("status", output, "--json").json()
        assert told["state"] == "stopped"
        assert signal.Signals(number).name in told["reason"]
        done = told["shards"]["done"]
    resumed = local_embed(config)
    assert resumed.rc == 0, resumed.log
    assert f"resuming {resumed.summary['run_id']}: {done} of" in resumed.log
    assert Snapshot.read(resumed.summary["data"]).ids == sorted(corpus[1])
    assert json.loads((output / "CURRENT.json").read_text())["rows"] == len(corpus[1])


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_stopped_while_it_starts(
    small_corpus: Corpus, tmp_path: Path, minilm: Path, seconds: float, leftovers: Leftovers
) -> None:
    """Before Ray starts, and while it does or after that: the same status, and no Ray stays behind.

    Ray's start may not be interrupted and keeps other threads from running for a while: the time is only bounded loosely.
    """
    config = configure(tmp_path / "run.yaml", small_corpus[0], tmp_path / "out", minilm)
    with Driver(config) as driver:
        time.sleep(seconds)
        stopped = driver.send(signal.SIGTERM)
        assert stopped.rc in (143, -signal.SIGTERM), stopped.log  # a shell shows both as 143
        assert stopped.seconds < 60
        assert "Traceback" not in stopped.log
        assert leftovers.take(driver) == []
    assert not (tmp_path / "out" / "CURRENT.json").exists()

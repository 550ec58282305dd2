"""While a job works nothing of ours listens: its driver and workers have the sockets that a bare Ray's have, no more.

Ray's own programs (its servers, which run none of our code) must talk to each other. What they listen on is theirs to
choose.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.drivers import NODE_AGENTS, Driver, configure, docstrings_corpus, receipts
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LISTENING = (psutil.CONN_LISTEN, psutil.CONN_NONE)  # TCP, UDP
RAYS_PROGRAMS = {"gcs_server", "raylet", "monitor.py", "log_monitor.py", "dashboard.py", *NODE_AGENTS}
BARE = """
import ray, sys, time
ray.init(address="local", include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
class Bare:
    def ready(self):
        return True
actors = [ray.remote(Bare).options(num_cpus=1, max_concurrency=5).remote() for _ in range(2)]
ray.get([actor.ready.remote() for actor in actors])
print("ready", flush=True)
sys.stdin.read()
"""


def kind_of(process: psutil.Process, driver: int) -> str:
    """What a process is to Ray: its driver, a worker, or one of its servers by the program's name."""
    if process.pid == driver:
        return "driver"
    line = process.cmdline()
    if line and line[0].startswith("ray::"):
        if (name := line[0].split(" ")[0]) in NODE_AGENTS:
            return name
        return "worker"
    scripts = [Path(part).name for part in line if part.endswith(".py")]
    return scripts[0] if scripts else Path(line[0]).name if line else process.name()


def listening(driver: int, family: list[psutil.Process]) -> dict[str, Counter[int]]:
    """Kind -> how many processes of it listen on how many TCP or UDP sockets."""
    found: dict[str, Counter[int]] = {}
    for process in family:
        try:
            sockets = [each for each in process.net_connections("inet") if each.status in LISTENING and not each.raddr]
            found.setdefault(kind_of(process, driver), Counter())[len(sockets)] += 1
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def bare(isolated_home: Path) -> Iterator[dict[str, Counter[int]]]:
    """listening() of a Ray with two actors that do nothing."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        driver = psutil.Process(process.pid)
        yield listening(driver.pid, [driver, *driver.children(recursive=True)])
        process.communicate("")


def test_no_socket_beyond_rays_own(bare: dict[str, Counter[int]], tmp_path: Path, minilm: Path) -> None:
    docstrings_corpus(tmp_path / "corpus", 160)
    config = configure(tmp_path / "run.yaml", tmp_path / "corpus", tmp_path / "out", minilm, replicas=2, shard_bytes="4KiB")
    with Driver(config) as driver:
        driver.until(lambda: receipts(tmp_path / "out"))
        family = [psutil.Process(driver.pid), *driver.family()]
        ours = listening(driver.pid, family)
        replicas = [process for process in family if re.match(r"ray::.*Replica", " ".join(process.cmdline()))]
        ended = driver.end()
    assert ended.rc == 0, ended.log
    assert len(replicas) == 2
    assert max(bare["driver"]) == max(bare["worker"]) == 1, "a port for the other processes of Ray each"
    more = {kind: counts for kind, counts in ours.items() if max(counts) > max(bare.get(kind, [0]))}
    assert set(more) <= RAYS_PROGRAMS, (ours, bare)
    assert {"driver", "worker"} <= set(ours)


def test_the_comparison_would_notice(tmp_path: Path) -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = listening(0, [psutil.Process(process.pid)])
        process.communicate("")
    assert [max(counts) for counts in found.values()] == [1]

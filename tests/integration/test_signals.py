"""SIGTERM and SIGINT wherever a driver may be: it ends before Ray would kill it, and the same command goes on from there.

While it starts and while it embeds: test_second_driver.py. Here: while parts are carried over, while it publishes, with
replicas that do not answer, and a second signal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.drivers import TIME_TO_TIDY, Driver, Ended, Leftovers, Made, Snapshot, configure, docstrings_corpus
from tests.local_replicas import local_embed
from tests.ray_nodes import RayCluster
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

Corpus = tuple[Path, list[str]]
SLOW = Path(__file__).parent / "slow_store"
LONG = 60  # seconds of a call that is not going to end by itself
ENDED = 15  # seconds: its two and a half, and what a busy machine adds


def _slow(folder: Path, what: str) -> tuple[dict[str, str], Path]:
    """The environment that makes a call slow, and the file that tells that it has begun."""
    mark = folder / "begun"
    return {"REEMBED_SLOW": what, "REEMBED_SLOW_MARK": str(mark), "PYTHONPATH": f"{SLOW}:{ROOT}"}, mark


def _stopped(config: Path, folder: Path, what: str, number: int, *, tidies: bool) -> Ended:
    """Send `number` as soon as the slow call has begun. `tidies`: the driver has the time to, else what it has as a rule."""
    env, mark = _slow(folder, what)
    if tidies:
        env |= TIME_TO_TIDY
    with Driver(config, env=env) as driver:
        driver.until(mark.exists)
        ended = driver.send(number)
        assert tidies or ended.seconds < ENDED, ended.log
        assert "Traceback" not in ended.log
        return ended


def _current(output: Path) -> dict[str, object]:
    current: dict[str, object] = json.loads((output / "CURRENT.json").read_text())
    return current


def test_while_parts_are_carried_over(tmp_path: Path, minilm: Path, ray_head: RayCluster) -> None:
    """The second night, one object more: copies that do not end are left to themselves, those that do are waited for."""
    ids = docstrings_corpus(tmp_path / "corpus", 60)
    output = tmp_path / "out"
    corpus = tmp_path / "corpus"
    config = configure(tmp_path / "run.yaml", corpus, output, minilm, address=ray_head.address, shard_bytes="4KiB")
    first = local_embed(config)
    assert first.rc == 0, first.log
    before = _current(output)
    (corpus / "part-9.jsonl").write_text(json.dumps({"id": "new", "text": "one more", "package": "p", "kind": "k"}) + "\n")
    for seconds, number in ((LONG, signal.SIGINT), (0.5, signal.SIGTERM)):
        folder = tmp_path / str(seconds)
        folder.mkdir()
        stopped = _stopped(config, folder, f"copy:part-:{seconds}", number, tidies=seconds < LONG)
        assert stopped.rc == 128 + number, stopped.log
        tidied = "run the same command again to resume" in stopped.log.splitlines()[-1]
        assert tidied == (seconds < LONG), stopped.log
        assert _current(output) == before, "readers have what they had"
    resumed = local_embed(config)
    assert resumed.rc == 0, resumed.log
    assert "looking for signs of life" not in resumed.log
    assert Snapshot.read(resumed.summary["data"]).ids == sorted([*ids, "new"])
    assert resumed.summary["reuse"]["carried_shards"] > 0


def test_while_it_publishes(made: Made, tmp_path: Path) -> None:
    """Readers have nothing, or all of it; and the same command ends well."""
    output = made.copy(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(made.config.read_text().replace(str(made.output), str(output)))
    for seconds in (LONG, 0.5):
        (output / "CURRENT.json").unlink()
        folder = tmp_path / str(seconds)
        folder.mkdir()
        stopped = _stopped(config, folder, f"put:CURRENT.json:{seconds}", signal.SIGTERM, tidies=seconds < LONG)
        if seconds == LONG:
            assert (stopped.rc, "stopped without tidying up" in stopped.log) == (143, True), stopped.log
            assert not (output / "CURRENT.json").exists()
        else:  # published; whether what comes after that, the report above all, was also done in time is up to the machine
            assert stopped.rc in (0, 143), stopped.log
            assert Snapshot.read(str(_current(output)["data"])).same_bits(made.snapshot)
        again = local_embed(config)
        assert (again.rc, again.summary["published"]) == (0, True), again.log
        assert Snapshot.read(str(_current(output)["data"])).same_bits(made.snapshot)


def test_with_replicas_that_do_not_answer(tmp_path: Path, minilm: Path, leftovers: Leftovers) -> None:
    """In-flight work that cannot end is abandoned: nothing waits for it, and nothing of it stays behind."""
    docstrings_corpus(tmp_path / "corpus", 60)
    config = configure(tmp_path / "run.yaml", tmp_path / "corpus", tmp_path / "out", minilm, replicas=2, shard_bytes="4KiB")
    with Driver(config, env=TIME_TO_TIDY) as driver:
        for replica in [driver.replica(number) for number in (0, 1)]:
            os.kill(replica, signal.SIGSTOP)
        stopped = driver.send(signal.SIGTERM)
        assert (stopped.rc, stopped.summary["exit_status"]) == (143, 143), stopped.log
        assert leftovers.take(driver) == []
    assert json.loads(next((tmp_path / "out" / "runs").glob("*/status.json")).read_text())["state"] == "stopped"


def test_a_second_signal_ends_it_at_once(small_corpus: Corpus, tmp_path: Path, minilm: Path, ray_head: RayCluster) -> None:
    """The first one waits for storage, which does not answer; the second one does not."""
    output = tmp_path / "out"
    config = configure(tmp_path / "run.yaml", small_corpus[0], output, minilm, address=ray_head.address)
    env, mark = _slow(tmp_path, f"put:status.json:{LONG}")
    with Driver(config, env=env | TIME_TO_TIDY) as driver:
        driver.until(mark.exists)
        os.kill(driver.pid, signal.SIGTERM)
        time.sleep(0.5)
        assert driver.running, "it has half a minute to tidy up"
        ended = driver.send(signal.SIGINT)
    assert ended.rc == 130, ended.log
    assert ended.seconds < ENDED
    resumed = local_embed(config)
    assert resumed.rc == 0, resumed.log
    assert Snapshot.read(resumed.summary["data"]).ids == sorted(small_corpus[1])

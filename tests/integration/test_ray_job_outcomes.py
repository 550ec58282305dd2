"""How Ray's job API reports each way in which a run can end, and a job that is stopped and submitted again.

The table in docs/operations.md is checked against what is seen here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.driver.lock import DriverLock
from tests.drivers import PATIENCE, Snapshot, configure, docstrings_corpus, receipts
from tests.ray_nodes import RayCluster
from tests.sessions import ROOT
from workers.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

Corpus = tuple[Path, list[str]]
OPERATIONS = ROOT / "docs" / "operations.md"


class Jobs:
    """`ray job submit`, as users call it; a job's stop, and what became of it, by the dashboard's own API."""

    def __init__(self, head: RayCluster, home: Path) -> None:
        self._head = head
        self._token = (home / ".ray" / "auth_token").read_text()

    def submit(self, config: Path, *overrides: str) -> tuple[str, subprocess.Popen[str]]:
        """Its id, and the command that waits for its end."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        entry = ["--", "python", "-m", "jobs.embed", str(config), *overrides]
        return name, self._ray("submit", "--submission-id", name, "--working-dir", ".", *entry)

    def stop(self, name: str) -> None:
        """What `ray job stop` asks for, which takes six seconds before it does: as long as all the work of a job here."""
        assert self._asked(f"{name}/stop", "POST") == {"stopped": True}

    def told(self, name: str) -> dict[str, Any]:
        return self._asked(name, "GET")

    def _asked(self, what: str, method: str) -> dict[str, Any]:
        """The answer to a request for /api/jobs/`what`."""
        request = urllib.request.Request(f"{self._head.dashboard}/api/jobs/{what}", method=method)
        request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def ended(self, name: str, process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
        """Exit status of `ray job submit`, and the job with what it printed."""
        with process:
            printed, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, self.told(name) | {"printed": printed[-3000:]}

    def _ray(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [Path(sys.executable).parent / "ray", "job", *arguments],
            cwd=ROOT,
            env=os.environ | {"RAY_API_SERVER_ADDRESS": self._head.dashboard, "RAY_AUTH_MODE": "token"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def jobs(ray_head: RayCluster, isolated_home: Path) -> Jobs:
    return Jobs(ray_head, isolated_home)


def _documented() -> dict[str, tuple[str, str, str]]:
    """Rows of the table: reembed's exit status -> (exit status of `ray job submit`, job status, driver_exit_code)."""
    section = OPERATIONS.read_text().partition("## As a Ray job")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| `?(.+?)`? \| `(.+?)` \| `?(.+?)`? \|", section, re.MULTILINE)
    return {status: (submitted, job, code) for status, submitted, job, code in rows}


def _check(status: str, submitted: int, told: dict[str, Any]) -> None:
    code = told["driver_exit_code"]
    assert _documented()[status] == (str(submitted), told["status"], "none" if code is None else str(code)), told
    if told["status"] == "FAILED":
        assert told["message"].startswith(f"Job entrypoint command failed with exit code {status}, last available logs")


def test_what_cannot_be_carried_out(jobs: Jobs) -> None:
    name, process = jobs.submit(Path("configs/quickstart.yaml"), "model.poling=cls")
    with process:
        output, _ = process.communicate(timeout=PATIENCE)
    _check("2", process.returncode, jobs.told(name))
    assert "unknown key model.poling" in output
    assert "Traceback" not in output


def test_a_refused_run(jobs: Jobs, tmp_path: Path, minilm: Path) -> None:
    (tmp_path / "corpus").mkdir()
    rows = [
        {"id": "a", "text": "a text", "package": "p", "kind": "k"},
        {"id": "b", "text": None, "package": "p", "kind": "k"},
    ]
    (tmp_path / "corpus" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure(tmp_path / "run.yaml", tmp_path / "corpus", tmp_path / "out", minilm, address="auto")
    submitted, told = jobs.ended(*jobs.submit(config))
    _check("3", submitted, told)
    assert "not published: quarantined" in told["message"]


def test_another_driver_at_work(jobs: Jobs, small_corpus: Corpus, tmp_path: Path, minilm: Path) -> None:
    config = configure(tmp_path / "run.yaml", small_corpus[0], tmp_path / "out", minilm, address="auto")
    with DriverLock(Store(str(tmp_path / "out"), {})):
        submitted, told = jobs.ended(*jobs.submit(config))
    _check("4", submitted, told)
    assert str(os.getpid()) in told["message"]


def test_stopped_in_three_ways_and_submitted_again(jobs: Jobs, tmp_path: Path, minilm: Path) -> None:
    """SIGTERM and SIGINT to the driver, a stop by the job API; then the same submission goes on to the end."""
    output = tmp_path / "out"
    ids = docstrings_corpus(tmp_path / "corpus", 160)
    config = configure(tmp_path / "run.yaml", tmp_path / "corpus", output, minilm, address="auto", shard_bytes="1KiB")
    for session, status in enumerate(("143", "130", "stop"), 1):
        name, process = jobs.submit(config)
        _until(lambda: _at_work(output, session), process)  # noqa: B023 - called here and now
        done = len(receipts(output))  # some of them may have come when the session before had ended: its actors die later
        _until(lambda: len(receipts(output)) > done + 2, process)  # noqa: B023
        if status == "stop":
            jobs.stop(name)
        else:
            os.kill(_driver(output), int(status) - 128)
        submitted, told = jobs.ended(name, process)
        state = json.loads(next((output / "runs").glob("*/status.json")).read_text())
        assert state["state"] == "stopped", f"it had the time to say so on storage: {status}, {submitted}, {told}"
        assert signal.Signals(143 - 128 if status == "stop" else int(status) - 128).name in state["reason"]
        _check(status, submitted, told)
    name, process = jobs.submit(config)
    submitted, told = jobs.ended(name, process)
    _check("0", submitted, told)
    summary = json.loads(next((output / "runs").glob("*/summary.json")).read_text())
    assert (summary["published"], summary["sessions"]) == (True, 4)
    assert Snapshot.read(summary["data"]).ids == sorted(ids)


def _until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.02)


def _at_work(output: Path, session: int) -> bool:
    """Whether the driver of this session embeds."""
    told = (json.loads(path.read_text()) for path in (output / "runs").glob("*/status.json"))
    return any(status["state"] == "running" and status["work"]["sessions"] == session for status in told)


def _driver(output: Path) -> int:
    """pid of the driver that holds the lock."""
    newest = max((output / "runs" / "lock").glob("*.json"))
    pid: int = json.loads(newest.read_text())["holder"]["pid"]
    return pid

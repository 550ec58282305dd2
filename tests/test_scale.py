"""benchmarks/scale.py at a size of seconds: the real job on fake replicas, and its state on storage found again.

The claims at full size, and the results they are read from, are in docs/scaling.md.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import benchmarks.scale
from benchmarks.scale_tables import PAGE, render
from benchmarks.tables import replaced

ROOT = Path(__file__).resolve().parent.parent


def scale(scratch: Path, *arguments: object) -> dict[str, Any]:
    """A section of the benchmark in this process: in processes of their own its steps would import everything each time."""
    options = benchmarks.scale.parser().parse_args([*map(str, arguments), "--scratch", str(scratch)])
    log = logging.getLogger("reembed")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with mock.patch.object(benchmarks.scale, "apart", lambda call, *given: call(*given)):
            found: dict[str, Any] = getattr(benchmarks.scale, options.section)(options)
    finally:
        log.setLevel(before)
    assert list(scratch.iterdir()) == [], "something was left behind"
    return found


def by_command(scratch: Path, *arguments: object) -> dict[str, Any]:
    """The command itself, whose sections run in processes of their own."""
    command = [sys.executable, "-m", "benchmarks.scale", *map(str, arguments), "--scratch", str(scratch)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == [], "something was left behind"
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_the_job_on_fake_replicas_ends_with_every_shard_published(tmp_path: Path) -> None:
    options = ("--shards", 400, "--replicas", 7, "--scenario", "quiet", "storm")
    found = scale(tmp_path, "simulate", *options)["scenarios"]
    for result in found.values():
        assert result["shards"] == {"planned": 400, "done": 400, "quarantined": 0}
        assert (result["state"], result["published"], result["reasons"]) == ("complete", True, [])
        assert result["requests"]["PUT receipts"] == 400
        assert result["requests"].get("GET receipts", 0) < 64, "receipts were read one by one"
        assert result["requests"]["PUT CURRENT.json"] == 1
        times = result["replica_hours"]
        assert times["held"] == pytest.approx(sum(times.values()) - times["held"], abs=0.05)
    quiet, storm = found["quiet"], found["storm"]
    assert quiet["attempts"] == 400
    assert quiet["efficiency"] > 0.93, "loading, and the last shard of each, weigh more in so short a run"
    assert storm["happened"]["preempted"] > 0
    assert storm["attempts"] >= 400 + storm["happened"]["hiccups"]


@pytest.mark.slow
def test_efficiency_can_be_looked_at_alone(tmp_path: Path) -> None:
    options = ("--shards", 800, "--replicas", 13, "--scenario", "quiet", "--dispatch-only")
    found = by_command(tmp_path, "simulate", *options)["scenarios"]["quiet"]
    assert (found["state"], found["published"], found["attempts"]) == ("not stored", False, 800)
    assert found["efficiency"] > 0.93
    assert "PUT receipts" not in found["requests"]


@pytest.mark.slow
def test_receipts_are_found_again_without_being_read_one_by_one(tmp_path: Path) -> None:
    found = scale(tmp_path, "receipts", "--receipts", 2500)
    files = found["write"]["requests"]["PUT ledger"]
    assert 11 <= files <= 13, "files of 200, and of a tenth of those logged from then on"
    assert found["write"]["requests"] == {"PUT ledger": files, "PUT receipts": 2500}
    left = found["load"]["requests"]["GET receipts"]
    assert left < 250
    assert found["load"]["requests"] == {"GET ledger": files, "GET receipts": left, "LIST ledger": 1, "LIST receipts": 4}
    assert found["load_one_by_one"]["requests"]["GET receipts"] == 125


@pytest.mark.slow
def test_a_run_nearly_done_goes_on_at_once(tmp_path: Path) -> None:
    found = scale(tmp_path, "resume", "--shards", 2500, "--done", 2250)["resume"]
    assert found["requests"]["GET receipts"] < 225
    assert 11 <= found["requests"]["GET ledger"] <= 13
    assert found["first_dispatch_seconds"] < 30


FOLDER = ROOT / "benchmarks" / "results"
RESULTS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("scale_*.json"))}


@pytest.mark.parametrize("name", [name for name, result in RESULTS.items() if result["section"] == "simulate"])
def test_the_committed_simulation_holds_what_is_claimed(name: str) -> None:
    for scenario, found in RESULTS[name]["scenarios"].items():
        assert found["efficiency"] >= (0.97 if scenario == "quiet" else 0.93)
        if found["state"] != "not stored":
            assert found["published"]
            assert found["driver_cpu_ms_a_shard"] <= 1.0
            assert found["peak_rss_bytes"] <= 2 << 30


@pytest.mark.parametrize("name", [name for name, result in RESULTS.items() if result["section"] == "resume"])
def test_the_committed_resume_holds_what_is_claimed(name: str) -> None:
    found = RESULTS[name]["resume"]
    assert found["first_dispatch_seconds"] <= 60
    assert found["peak_rss_bytes"] <= 2 << 30


def test_the_page_says_what_the_results_say() -> None:
    assert replaced(PAGE.read_text(), render(FOLDER)) == PAGE.read_text(), "run: python -m benchmarks.scale_tables"

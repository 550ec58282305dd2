"""Two models, rollback, force and retention, by the real commands over a real run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.commands.verify import verify_snapshot
from tests.drivers import Made, Snapshot
from tests.local_replicas import local_embed, local_run
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.spread]

NOWHERE = "cluster.address=127.0.0.1:1"  # nobody is asked


def test_another_model_taken_back_and_given_again(made: Made, tmp_path: Path) -> None:
    output, config = made.copy(tmp_path), tmp_path / "run.yaml"
    shutil.copy(made.config, config)
    place, other = f"output.uri={output}", ["cluster.replicas=1", "model.pooling=cls", "gate.allow_model_change=true"]
    first = made.ended.summary["run_id"]
    ended = local_embed(config, place, *other)
    assert ended.rc == 0, ended.log
    second = ended.summary["run_id"]
    assert ended.summary["deleted_snapshots"] == []

    back = local_run("rollback", output, first, "--json")
    assert (back.rc, back.summary["left"]) == (0, second), back.log
    current = json.loads((output / "CURRENT.json").read_text())
    assert (current["run_id"], current["taken_back"], current["model"]["pooling"]) == (first, [second], "mean")
    assert verify_snapshot(str(output), 4)["findings"] == []
    listed = local_run("snapshots", output, "--json").summary
    assert [(item["run_id"], item["current"], item["taken_back"]) for item in listed["snapshots"]] == [
        (second, False, True), (first, True, False),
    ]  # fmt: skip
    assert [item["bytes"] > 60 * 384 * 2 for item in listed["snapshots"]] == [True, True]
    assert f"* {first}" in local_run("snapshots", output).stdout

    refused = local_run("embed", config, place, *other, NOWHERE, "--json")
    assert refused.rc == 3, refused.log
    summary = refused.summary
    assert (summary["run_id"], summary["state"], summary["published"]) == (second, "refused", False)
    assert summary["attempts"] == ended.summary["attempts"], "nothing was embedded"
    assert "was taken back" in summary["reasons"][0]
    assert f"reembed rollback {output} {second}" in summary["reasons"][0]
    status = local_run("status", output, "--json").summary
    assert (status["state"], status["published_run"]) == ("refused", first)
    assert local_run("embed", config, place, NOWHERE).rc == 0, "the one that is current: nothing to do"

    why = local_run("publish", output, second, "--json")
    assert (why.rc, why.summary["published"]) == (3, False), why.log
    forced = local_run("publish", output, second, "--force")
    assert forced.rc == 0, forced.log
    assert json.loads((output / "CURRENT.json").read_text())["run_id"] == second
    path = output / "runs" / second / "summary.json"
    path.write_text(json.dumps(summary))  # as if it had been killed before it could write this
    again = local_run("embed", config, place, *other, NOWHERE, "--json")
    assert (again.rc, again.summary["unchanged"], again.summary["published"]) == (0, True, True), again.log

    third = local_embed(config, place, "cluster.replicas=1", "model.pooling=max", *other[2:], "output.keep_snapshots=1")
    assert third.rc == 0, third.log
    assert third.summary["deleted_snapshots"] == [first, second]
    assert f"output.keep_snapshots=1: deleted {first}, {second}" in third.log
    assert [path.name for path in (output / "data").iterdir()] == [third.summary["run_id"]]
    assert Snapshot.read(third.summary["data"]).ids == made.snapshot.ids
    gone = local_run("rollback", output, first, "--json")
    assert (gone.rc, gone.summary["exit_status"]) == (2, 2)
    assert third.summary["run_id"] in gone.summary["error"]


def test_a_night_by_the_shell_script(made: Made, tmp_path: Path) -> None:
    """What the cron line calls, with the command itself: nothing to do, nothing said."""
    env = os.environ | {"REEMBED": f"{sys.executable} -m jobs.cli", "LOG": str(tmp_path / "log"), "PAUSE": "0"}
    for overrides, status in ((["cluster.address=127.0.0.1:1"], 0), (["model.poling=cls"], 2)):
        ended = subprocess.run(
            ["deploy/nightly.sh", str(made.config), *overrides],
            cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert ended.returncode == status, ended.stdout
        assert ended.stdout == "" if status == 0 else "unknown key model.poling" in ended.stdout

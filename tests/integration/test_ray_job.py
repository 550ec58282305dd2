"""`ray job submit`, as the README has it: the repository is the working_dir, the cluster runs the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.commands.verify import verify_snapshot
from tests.drivers import PATIENCE, Snapshot
from tests.ray_nodes import RayCluster
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICKSTART = ROOT / "configs" / "quickstart"


def _submit(head: RayCluster, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command of the README, with the address that it leaves to RAY_API_SERVER_ADDRESS."""
    given = {"RAY_API_SERVER_ADDRESS": head.dashboard, "RAY_AUTH_MODE": "token"} | environment
    ray = Path(sys.executable).parent / "ray"
    return subprocess.run(
        [ray, "job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.embed", *arguments],
        cwd=ROOT,
        env={name: value for name, value in (os.environ | given).items() if value or name not in environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_submitted_twice(ray_head: RayCluster, isolated_home: Path) -> None:
    """The second one finds nothing to do, and says so."""
    # the quickstart writes to the home folder, which is the tests' own here
    first = _submit(ray_head, "configs/quickstart.yaml")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "published   yes" in first.stdout
    output = isolated_home / "reembed-quickstart"
    current = json.loads((output / "CURRENT.json").read_text())
    documents = [json.loads(line) for path in QUICKSTART.iterdir() for line in path.read_text().splitlines()]
    assert Snapshot.read(current["data"]).ids == sorted(document["id"] for document in documents)
    assert verify_snapshot(str(output), 0)["findings"] == []
    (uploaded,) = (
        path for path in ray_head.folder.glob("session_2*/runtime_resources/working_dir_files/*") if path.is_dir()
    )
    assert (uploaded / "jobs" / "embed" / "__main__.py").exists()
    names = {path.name for path in uploaded.iterdir()}
    assert not names & {".git", ".venv", ".mypy_cache", ".pytest_cache"}, "environment or history were uploaded"
    assert sum(path.stat().st_size for path in uploaded.rglob("*")) < 20e6

    second = _submit(ray_head, "configs/quickstart.yaml")
    assert second.returncode == 0, second.stdout[-3000:]
    assert "(nothing to do)" in second.stdout
    assert json.loads((output / "CURRENT.json").read_text()) == current


def test_a_token_that_a_local_ray_left_is_not_presented_by_ray_itself(ray_head: RayCluster, isolated_home: Path) -> None:
    """The trap of docs/operations.md: the cluster took the token in the home folder, `ray job submit` must be told."""
    assert (isolated_home / ".ray" / "auth_token").exists()
    submitted = _submit(ray_head, "--help", RAY_AUTH_MODE="")
    assert submitted.returncode != 0
    assert "AuthenticationError" in submitted.stdout + submitted.stderr
    assert "RAY_AUTH_MODE is currently 'disabled'" in submitted.stdout + submitted.stderr
    told = _submit(ray_head, "--help")
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]


def test_the_script_tells_what_storage_says(ray_head: RayCluster) -> None:
    """deploy/ray_job.sh ends with reembed's own status, whatever `ray job submit` made of it."""
    python = f"{sys.executable} -m jobs.cli"
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}  # the script knows of the token
    env |= {"RAY_API_SERVER_ADDRESS": ray_head.dashboard}
    env |= {"RAY": str(Path(sys.executable).parent / "ray"), "REEMBED": python, "PYTHON": sys.executable}
    for overrides, status in (([], 0), (["model.poling=cls"], 2)):
        ended = subprocess.run(
            ["deploy/ray_job.sh", "configs/quickstart.yaml", *overrides],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert ended.returncode == status, ended.stdout[-3000:] + ended.stderr[-3000:]

"""A driver that joins a cluster sends its own code along: every module of every nested package, and the compiled kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray_nodes import RayCluster
from tests.sessions import ROOT

pytestmark = [pytest.mark.ray]

ON_A_NODE = """
import json, sys

from jobs.config import ClusterConfig
from jobs.pool.connection import connected
import ray

def shipped():
    import jobs, workers
    from pathlib import Path
    import workers.engine.kernels.attention, jobs.pool.replica_actor, jobs.embed.job

    def files(root):
        return sorted(str(path.relative_to(root.parent)) for path in root.rglob("*") if path.is_file())

    return {str(root): files(root) for root in (Path(module.__file__).parent for module in (jobs, workers))}

with connected(ClusterConfig(address=sys.argv[1])):
    print(json.dumps(ray.get(ray.remote(shipped).remote())))
"""


def tree(package: str) -> list[str]:
    """What this checkout holds, but for Python's caches."""
    files = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()]
    return sorted(str(path) for path in files if "__pycache__" not in path.parts)


def test_nodes_get_every_file_of_both_packages(ray_head: RayCluster, tmp_path: Path) -> None:
    """From another folder than the repository. `.gitignore` names `*.so`, but lies above the folders that are sent."""
    told = subprocess.run(
        [sys.executable, "-c", ON_A_NODE, ray_head.address],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    sent: dict[str, list[str]] = json.loads(told.stdout.splitlines()[-1])
    assert {Path(root).name for root in sent} == {"jobs", "workers"}
    for root, files in sent.items():
        assert "py_modules_files" in root, "imported from what was sent, not from what is installed here"
        assert [name for name in files if "__pycache__" not in name] == tree(Path(root).name)

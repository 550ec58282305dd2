"""`uv run reembed embed` in another project: Ray's uv hook would start each replica by `uv run` in a copy without packages.

Needs uv: on the PATH, or named by REEMBED_UV.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.sessions import ROOT

UV = os.environ.get("REEMBED_UV") or shutil.which("uv")
PROJECT = '[project]\nname = "nightly"\nversion = "0.1.0"\nrequires-python = ">=3.11"\ndependencies = []\n'

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.skipif(UV is None, reason="no uv here: pip install uv, or REEMBED_UV=path/to/uv")
def test_uv_run_in_a_project(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "configs" / "quickstart" / "documents.jsonl", tmp_path)
    config = {
        "corpus": {"uri": str(tmp_path / "documents.jsonl"), "id": "id"},
        "model": {"name": str(small_model)},
        "output": {"uri": str(tmp_path / "out")},
        "cluster": {"address": "local", "replicas": 1, "cpus_per_replica": 1},
    }
    (tmp_path / "q.yaml").write_text(yaml.safe_dump(config))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
    ended = subprocess.run(
        [str(UV), "run", "--no-sync", "reembed", "embed", "q.yaml"],
        cwd=tmp_path, env=env | {"UV_OFFLINE": "1"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "published   yes" in ended.stdout

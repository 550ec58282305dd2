"""The command where another project's packages are called `jobs` or `workers`: one line that names them, exit 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reembed import foreign_package
from tests.conftest import ROOT


def _run(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{path}:{ROOT}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.parametrize("name", ["jobs", "workers"])
@pytest.mark.parametrize("kind", ["package", "module"])
def test_another_projects_package_is_named(tmp_path: Path, name: str, kind: str) -> None:
    theirs = tmp_path / (name if kind == "package" else f"{name}.py")
    if kind == "package":
        theirs.mkdir()
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')\n"
    (theirs / "__init__.py" if kind == "package" else theirs).write_text(code)
    told = _run("-m", "reembed", "status", "/tmp/none", path=tmp_path, cwd=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert told.stderr.startswith(f"reembed: Python finds another `{name}` before reembed's: {theirs}; rename it")
    assert not marker.exists(), "their code is not run"


def test_python_dash_m_of_a_job_says_so_too(tmp_path: Path) -> None:
    """As in `ray job submit -- python -m jobs.embed`; with another `jobs` Python says that there is no module."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").touch()
    told = _run("-m", "jobs.embed", "x.yaml", path=tmp_path, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr.startswith(f"reembed: Python finds another `workers` before reembed's: {tmp_path / 'workers'}")
    assert told.stderr.count("\n") == 1


def test_a_folder_without_code_and_our_own_packages_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()  # no __init__.py: Python goes on looking
    told = _run("-m", "reembed", "--version", path=tmp_path, cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert foreign_package() is None


def test_a_package_that_is_missing() -> None:
    told = foreign_package(["no_such_package_of_ours"])
    assert told is not None
    assert "is missing beside" in told

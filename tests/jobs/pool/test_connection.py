"""How the pool meets Ray: the token mode is decided before ray is imported, and no private part of Ray is used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

AT_IMPORT = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            print(os.environ.get("RAY_AUTH_MODE"))
            raise SystemExit

sys.meta_path.insert(0, Watch())
import jobs.pool.{module}
"""


def _mode_at_import(home: Path, module: str, **env: str) -> str:
    """RAY_AUTH_MODE at the moment when a module of the pool first imports ray."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", AT_IMPORT.format(module=module)],
        env=clean | {"HOME": str(home)} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


@pytest.mark.parametrize("module", ["connection", "replica_pool", "replica_actor", "actor_deaths"])
def test_a_token_at_hand_is_presented_whichever_module_comes_first(tmp_path: Path, module: str) -> None:
    assert _mode_at_import(tmp_path, module, RAY_AUTH_TOKEN="secret") == "token"


def test_a_token_in_the_home_folder_is_presented(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert _mode_at_import(tmp_path, "connection") == "token"


def test_without_a_token_and_against_an_explicit_mode_nothing_is_set(tmp_path: Path) -> None:
    assert _mode_at_import(tmp_path, "connection") == "None"
    assert _mode_at_import(tmp_path, "connection", RAY_AUTH_TOKEN="secret", RAY_AUTH_MODE="disabled") == "disabled"


def test_no_private_part_of_ray_is_used() -> None:
    """Neither an import of an underscored module or name, nor an underscored attribute of `ray` or of what is below it."""
    used = []
    for path in sorted([*(ROOT / "jobs").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    places = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), names=names):
                    places = [f"{module}.{alias.name}" for alias in names]
                case ast.Attribute():
                    places = [ast.unparse(node)]
                case _:
                    continue
            used += [f"{path.name}: {place}" for place in places if place.startswith("ray.") and "._" in place]
    assert used == []

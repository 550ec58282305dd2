"""Hooks by string must not outlive the module that they name: a fault that is not injected would prove nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.after_import import after_import

ROOT = Path(__file__).resolve().parent.parent
HOOKS = sorted((ROOT / "tests").rglob("sitecustomize.py"))


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.parametrize("target", ["jobs.no_such_room", "no_such_package.module", "jobs.config.no_such_part"])
def test_a_target_that_does_not_exist_ends_the_process(target: str, tmp_path: Path) -> None:
    hook = f"from tests.after_import import after_import\nafter_import({target!r}, print)\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    done = _python("print('reached')", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode != 0
    assert "reached" not in done.stdout
    assert f"no module {target}" in done.stderr


def test_a_name_that_does_not_exist_ends_the_process() -> None:
    code = (
        "from tests.after_import import after_import, replace\n"
        "after_import('jobs.config', lambda module: replace(module, 'no_such_name', 1))\n"
        "import jobs.config\nprint('reached')"
    )
    done = _python(code)
    assert done.returncode != 0
    assert "reached" not in done.stdout
    assert "jobs.config has no no_such_name" in done.stderr


def test_a_target_that_exists_is_changed_once_it_is_loaded() -> None:
    code = (
        "from tests.after_import import after_import, replace\n"
        "after_import('jobs.config', lambda module: replace(module, 'RunConfig', 'changed'))\n"
        "import jobs.config\nprint(jobs.config.RunConfig)"
    )
    assert _python(code).stdout.split() == ["changed"]


def test_there_are_hooks() -> None:
    assert len(HOOKS) >= 4


@pytest.mark.parametrize("hook", HOOKS, ids=lambda path: path.parent.name)
def test_every_hook_names_modules_that_exist(hook: Path) -> None:
    """Each string that stands where a target does, asked for in a process of its own."""
    targets = [
        node.value
        for node in ast.walk(ast.parse(hook.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(".")[0] in ("jobs", "workers")
    ]
    assert targets
    done = _python(
        f"from tests.after_import import after_import\nfor name in {targets}: after_import(name, print)\nprint('all')"
    )
    assert done.stdout.split() == ["all"], done.stderr


def test_a_module_that_is_loaded_is_changed_at_once() -> None:
    given: list[object] = []
    finders = list(sys.meta_path)
    after_import(__name__, given.append)
    assert given == [sys.modules[__name__]]
    assert sys.meta_path == finders

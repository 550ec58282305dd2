"""The rules of the house: who may import whom, what a cold start may cost, how long a file may be, what tests may need."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = [path for folder in ("jobs", "workers") for path in sorted((ROOT / folder).rglob("*.py"))]
ALL_SOURCES = [
    path for folder in ("jobs", "workers", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]
MAX_LINES = 400
MAX_MODULES = 12  # of a room, its __init__ not counted
MAX_JOBS_ENTRIES, MAX_WORKERS_ENTRIES = 20, 18
TESTED_ELSEWHERE = ("jobs", "workers", "workers/engine/bert")
HELP_SECONDS = 0.5
HEAVY = ("torch", "ray", "pyarrow", "transformers", "sentence_transformers", "s3fs", "pandas")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False
    )


def test_import_contracts_hold() -> None:
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = _run("-c", command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.alone
def test_help_comes_at_once() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = _run("-m", "jobs.cli", "--help")
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert statistics.median(seconds) < HELP_SECONDS, seconds


@pytest.mark.parametrize(
    "module", ["jobs.cli", "jobs.config", "jobs.scheduling.scheduler", "workers.config", "workers.records.shard"]
)
def test_imports_nothing_heavy(module: str) -> None:
    done = _run("-c", f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_one_room_a_file() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in ALL_SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def _entries(folder: Path) -> list[Path]:
    """What a reader has to choose from: rooms and modules, without what each package has."""
    without = {"__pycache__", "__init__.py", "py.typed"}
    return [path for path in folder.iterdir() if path.name not in without and path.suffix != ".so"]


def _modules(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.py") if path.name != "__init__.py"]


ROOMS = sorted({path.parent for path in PRODUCT})


def test_no_room_is_crowded() -> None:
    assert {_name(room): len(_modules(room)) for room in ROOMS if len(_modules(room)) > MAX_MODULES} == {}
    assert len(_entries(ROOT / "jobs")) <= MAX_JOBS_ENTRIES
    assert len(_entries(ROOT / "workers")) <= MAX_WORKERS_ENTRIES


def test_every_room_says_what_it_is_and_has_tests() -> None:
    missing = [
        f"{_name(room)}: no docstring"
        for room in ROOMS
        if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    ]
    for room in ROOMS:
        tests = ROOT / "tests" / room.relative_to(ROOT)
        if _name(room) not in TESTED_ELSEWHERE and not list(tests.glob("test_*.py")):
            missing.append(f"{_name(room)}: no tests in {_name(tests)}")
    assert missing == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count too: two modules that need each other are one module, or lack a third."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PRODUCT}
    imports: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                imports[name] |= found or ({node.module} & names.keys())
            elif isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names} & names.keys()
    cycles: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            cycles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(imports[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())
    assert cycles == []


def test_product_files_open_with_what_they_do_and_hold_no_assert() -> None:
    """`python -O` drops asserts: users' input is answered by errors that name the mend."""
    found = []
    for path in PRODUCT:
        tree = ast.parse(path.read_text())
        found += [] if ast.get_docstring(tree) else [f"{_name(path)}: no docstring"]
        found += [f"{_name(path)}:{node.lineno}: assert" for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert found == []


def test_no_pickle_is_ever_loaded() -> None:
    """`torch.load`, pickle and friends run code from files; weights come as safetensors, records as JSON and Parquet."""
    loads = re.compile(
        r"torch\.load\(|\b(?:pickle|cloudpickle|joblib|dill|marshal|shelve)\.(?:loads?|Unpickler|open)\b|allow_pickle=True"
    )
    found = [f"{_name(path)}: {match.group()}" for path in PRODUCT for match in loads.finditer(path.read_text())]
    assert found == []


def test_tests_never_kill_by_name() -> None:
    """Only recorded pids: another Ray or server on this machine is none of our business."""
    by_name = re.compile(r"\b(?:pkill|killall)\b|[\"']ray[\"'],\s*[\"']stop[\"']|\bray stop\b")
    here = Path(__file__).resolve()
    found = [_name(path) for path in ALL_SOURCES if path != here and by_name.search(path.read_text())]
    assert found == []


@pytest.mark.slow
def test_every_benchmark_still_finds_what_it_imports() -> None:
    """They are run rarely, and their figures are quoted: a name that moved must not be found out months later."""
    files = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if path.parent.name != "contestants"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    done = _run("-c", f"import importlib; [importlib.import_module(name) for name in {names}]")
    assert done.returncode == 0, done.stderr


WRITTEN = [
    ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / "docs").rglob("*.md")),
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file() and path.suffix not in (".json", ".pyc")),
    *PRODUCT,
]  # fmt: skip
FILE = re.compile(r"\b(?:jobs|workers|tests|benchmarks)/[\w/.-]+\.(?:py|c)\b")
DOTTED = re.compile(r"(?<![\w./-])(?:jobs|workers)(?:\.[A-Za-z_]\w*)+")


def _is_there(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that stands in the module or package before it."""
    path, names = ROOT, dotted.split(".")
    while names and (path / names[0]).is_dir():
        path /= names.pop(0)
    if names and (path / f"{names[0]}.py").is_file():
        path /= f"{names.pop(0)}.py"
    if names and (path / f"{names[0].lstrip('_')}.c").is_file():
        return True  # an extension module, which exists once it is built
    if not names or path.is_dir():
        initial = path / "__init__.py"
        return not names or (initial.is_file() and re.search(rf"\b{names[0]}\b", initial.read_text()) is not None)
    return re.search(rf"\b{names[0]}\b", path.read_text()) is not None


@pytest.mark.parametrize("path", WRITTEN, ids=_name)
def test_files_and_modules_that_are_named_exist(path: Path) -> None:
    """In documents, scripts and the product's docstrings and comments: a name that moved must not send a reader astray."""
    text = path.read_text()
    missing = [name for name in FILE.findall(text) if not (ROOT / name).is_file()]
    missing += [name for name in DOTTED.findall(text) if not _is_there(name)]
    assert missing == []


def test_a_name_that_is_gone_is_noticed() -> None:
    assert _is_there("jobs.scheduling.scheduler.Scheduler")
    assert _is_there("workers.engine")
    assert _is_there("workers.__version__")
    assert not _is_there("jobs.scheduling.verdict")
    assert not _is_there("jobs.verdict")
    assert not _is_there("jobs.scheduling.scheduler.Judge")
    assert FILE.findall("as jobs/verdict.py and workers/engine/kernels/attention.c say") == [
        "jobs/verdict.py",
        "workers/engine/kernels/attention.c",
    ]

"""docs/operations.md names all that a run can say: each warning and error of its log, each metric, each exit status."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from jobs.monitoring.metrics import METRICS
from jobs.state.records import RunState
from tests.exported_metrics import exported

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()
_LOUD = ("warning", "error", "exception", "critical")


def _section(title: str) -> str:
    head, found, rest = TEXT.partition(f"\n## {title}\n")
    assert found, f"no section {title!r} in:\n{head}"
    return rest.partition("\n## ")[0]


def _entries(title: str) -> list[str]:
    """What stands in backticks at the beginning of each row of the section's tables."""
    return re.findall(r"^\| `(.+?)` \|", _section(title), re.MULTILINE)


def _loud_lines() -> Iterator[tuple[str, str]]:
    """(where, format with its placeholders as …) of every log call that an operator may have to act on."""
    for path in sorted([*(ROOT / "jobs").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for call in ast.walk(tree):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=attr), args=[first, *_]):
                    if attr in _LOUD:
                        where = f"{path.relative_to(ROOT)}:{call.lineno}"
                        text = constants[first.id] if isinstance(first, ast.Name) else ast.literal_eval(first)
                        yield where, re.sub(r"%[-+.\d]*[a-z]", "…", text)


def test_every_warning_and_error_has_an_entry() -> None:
    lines = dict(_loud_lines())
    assert len(lines) > 30, "the search finds nothing"
    entries = set(_entries("Log lines"))
    missing = {where: text for where, text in lines.items() if text not in entries and text.strip("…") != ""}
    assert missing == {}
    assert entries - set(lines.values()) == set(), "nothing says this any more"


def test_every_metric_has_an_entry() -> None:
    assert sorted(_entries("Metrics")) == sorted(exported(metric) for metric in METRICS)
    rows = dict(re.findall(r"^\| `(.+?)` \| (.*)$", _section("Metrics"), re.MULTILINE))
    for metric in METRICS:
        for tag in metric.tags:
            assert f"`{tag}`" in rows[exported(metric)], f"{metric.name}: its tag {tag}"


def test_queries_name_metrics_that_exist() -> None:
    names = {exported(metric) for metric in METRICS}
    names |= {
        f"{exported(metric)}{suffix}" for metric in METRICS if metric.boundaries for suffix in ("_bucket", "_sum", "_count")
    }
    assert set(re.findall(r"\bray_reembed_\w+", TEXT)) <= names


def test_every_exit_status_and_state_has_an_entry() -> None:
    assert _entries("Exit statuses") == ["0", "1", "2", "3", "4", "130", "143"]
    assert set(_entries("As a Ray job")) >= {"0", "2", "3", "4", "130", "143"}
    assert all(f"`{state.value}`" in TEXT for state in RunState)

"""docs/reliability.md names a test for every case, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = 30


def test_every_case_names_tests_that_are_there() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, CASES + 1))
    missing = []
    for number, row in rows:
        named = re.findall(r"`([\w/]+)::(\w+)(?:\[[^`]*\])?`", row)
        assert named, f"case {number} names no test"
        for file, name in named:
            path = ROOT / "tests" / f"{file}.py"
            if not path.exists() or f"def {name}(" not in path.read_text():
                missing.append(f"{file}::{name}")
    assert missing == []

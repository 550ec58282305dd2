"""docs/reliability.md names a test for every case, and each of them exists."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import RESULTS, replaced
from tests.faults.results import DOC, NAMED, ROW
from tests.faults.soak import recorded, table

TESTS = Path(__file__).resolve().parent
CASES = 31


def test_every_case_names_tests_that_are_there() -> None:
    rows = ROW.findall(DOC.read_text())
    assert [int(number) for number, *_ in rows] == list(range(1, CASES + 1))
    missing = []
    for number, _, shown_by in rows:
        named = NAMED.findall(shown_by)
        assert named, f"case {number} names no test"
        for file, name, _ in named:
            path = TESTS / f"{file}.py"
            if not path.exists() or f"def {name}(" not in path.read_text():
                missing.append(f"{file}::{name}")
    assert missing == []


def test_the_table_of_runs_under_fire_is_that_of_the_records() -> None:
    [path] = RESULTS.glob("soak_*.jsonl")
    records = recorded(path)
    assert len(records) >= 300
    assert sum(record["losses"] + record["duplicates"] + record["invalid_current"] for record in records) == 0
    again = "make soak ARGS='--table benchmarks/results/soak_….jsonl --page'"
    assert replaced(DOC.read_text(), table(records), "soak") == DOC.read_text(), again

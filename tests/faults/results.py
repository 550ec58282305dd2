"""Fills the results of docs/reliability.md in from what pytest wrote: python -m tests.faults.results faults.xml test.xml

    make test ARGS='--junitxml=test.xml'; make faults ARGS='--junitxml=faults.xml'     where the XML comes from

A case's result counts every test that it names, parameters apart. Later files win, so that `make faults` overrules the fewer
repetitions of `make test`. A test that was not run, or was left out, is said to be missing: exit status 1.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
ROW = re.compile(r"^\| (\d+) \| ([^|]*) \| ([^|]*) \|(?:[^|]*\|)?$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+)::(\w+)((?:\[[^`]*\])?)`")
_ENDED_OTHERWISE = {"failure": "failed", "error": "failed", "skipped": "left out"}


def outcomes(files: list[Path]) -> dict[str, str]:
    """Test, as "faults/test_clocks::test_x[y]" -> passed, failed, left out."""
    found: dict[str, str] = {}
    for file in files:
        for case in ET.parse(file).iter("testcase"):
            name = f"{case.get('classname', '').removeprefix('tests.').replace('.', '/')}::{case.get('name')}"
            found[name] = next((_ENDED_OTHERWISE[part.tag] for part in case if part.tag in _ENDED_OTHERWISE), "passed")
    return found


def result(shown_by: str, found: dict[str, str]) -> str:
    """One case's: "5 passed", "4 passed, 1 failed", "not run: faults/test_x::test_y"."""
    counts: Counter[str] = Counter()
    absent = []
    for file, test, parameters in NAMED.findall(shown_by):
        name = f"{file}::{test}{parameters}"
        # the page names a case by the first of its parameters, or all cases by none
        more = f"{name[:-1]}-" if parameters else f"{name}["
        mine = [how for known, how in found.items() if known == name or known.startswith(more)]
        counts.update(mine)
        absent += [] if mine else [name]
    said = [f"{counts[how]} {how}" for how in ("passed", "failed", "left out") if counts[how]]
    return ", ".join(said + [f"not run: {name}" for name in absent])


def fill(text: str, found: dict[str, str]) -> str:
    return ROW.sub(lambda row: f"| {row[1]} | {row[2]} | {row[3]} | {result(row[3], found)} |", text)


def main() -> int:
    found = outcomes([Path(name) for name in sys.argv[1:]])
    filled = fill(DOC.read_text(), found)
    DOC.write_text(filled)
    short = [line for line in filled.splitlines() if ROW.match(line) and re.search(r"not run|failed|left out", line[-200:])]
    print("\n".join(short) or f"all cases passed ({len(found)} tests seen)")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())

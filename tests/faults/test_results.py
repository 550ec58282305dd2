"""What docs/reliability.md says of each case is what pytest recorded."""

from __future__ import annotations

from pathlib import Path

from tests.faults.results import fill, outcomes

RECORDED = """<testsuites><testsuite>
<testcase classname="tests.faults.test_a" name="test_x[one]"/>
<testcase classname="tests.faults.test_a" name="test_x[two]"><failure message="no"/></testcase>
<testcase classname="tests.faults.test_a" name="test_z[one-word0]"/>
<testcase classname="tests.workers.test_b" name="test_y"/>
<testcase classname="tests.workers.test_b" name="test_y_as_well"><skipped/></testcase>
</testsuite></testsuites>"""
AGAIN = '<testsuite><testcase classname="tests.faults.test_a" name="test_x[two]"/></testsuite>'


def test_results_are_counted_and_what_was_not_run_is_said(tmp_path: Path) -> None:
    first, later = tmp_path / "test.xml", tmp_path / "faults.xml"
    first.write_text(RECORDED)
    later.write_text(AGAIN)
    text = "\n".join(
        (
            "| case | what happens | shown by | result |",
            "| 1 | it breaks | `faults/test_a::test_x` (`TIMES=20`), `workers/test_b::test_y` | |",
            "| 2 | it ends | `faults/test_a::test_x[two]`, `workers/test_b::test_gone` | 7 passed |",
            "| 3 | it waits | `workers/test_b::test_y_as_well` |",
            "| 4 | it goes on | `faults/test_a::test_z[one]` | |",
        )
    )
    ends = [line.rpartition("` ")[2] for line in fill(text, outcomes([first])).splitlines()]
    assert ends[1:] == [
        "| 2 passed, 1 failed |", "| 1 failed, not run: workers/test_b::test_gone |", "| 1 left out |", "| 1 passed |",
    ]  # fmt: skip
    once_more = fill(fill(text, outcomes([first])), outcomes([first, later]))
    assert "| 3 passed |" in once_more.splitlines()[1]

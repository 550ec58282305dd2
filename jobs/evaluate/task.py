"""What a task of `evaluate` is: a module-like object with these names. jobs/evaluate/job.py picks one by `evaluate.task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot


class TaskModule(Protocol):
    """jobs/evaluate/<task>.py, or jobs/evaluate/given/<task>.py."""

    METRICS: tuple[str, ...]
    """Figures of its facts that `evaluate.min` may bound, between 0 and 1, more is better; the first is the main one."""

    def check(self, source: SourceSnapshot, section: EvaluateSection) -> tuple[str, ...]:
        """As JobKind.check()."""

    def evaluate(self, passes: Passes, section: EvaluateSection, kept: Kept | None) -> Outcome:
        """As JobKind.program(). Its facts have `task`, `rows` and METRICS; limits are checked by job.py."""

    def text(self, facts: Mapping[str, Any]) -> list[str]:
        """As JobKind.text()."""

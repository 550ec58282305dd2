"""EvaluateJob: the job `evaluate`. The task does the work; limits of its figures are checked here.

A task is one module here, with the names of task.py, and one line in _tasks(). Tasks are imported when the job runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jobs.evaluate.candidates import grid
from jobs.evaluate.config import EvaluateConfig, EvaluateSection, Task
from jobs.evaluate.given.tables import digests
from jobs.evaluate.limits import limit_checks, require_known
from jobs.evaluate.task import TaskModule
from jobs.passes.kind import JobKind, Kept, Outcome
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot


def task_of(section: EvaluateSection) -> TaskModule:
    """The module of a section's task."""
    from jobs.evaluate import classify, cluster, pairs, retrieve

    tasks: dict[Task, TaskModule] = {
        Task.CLASSIFY: classify,
        Task.RETRIEVE: retrieve,
        Task.PAIRS: pairs,
        Task.CLUSTER: cluster,
    }
    return tasks[section.task]


class EvaluateJob(JobKind):
    """`reembed evaluate`."""

    name = "evaluate"
    writes_parts = False
    config: EvaluateConfig

    @property
    def section(self) -> EvaluateSection:
        return self.config.evaluate

    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        task = task_of(self.section)
        require_known(self.section, task.METRICS)
        if self.section.candidates:
            grid.check(source, self.section)
        return task.check(source, self.section)

    def program(self, passes: Passes, kept: Kept | None) -> Outcome:
        task = task_of(self.section)
        candidates = self.section.candidates
        outcome = grid.evaluate(passes, self.section, task) if candidates else task.evaluate(passes, self.section, kept)
        limits = limit_checks(self.section, task.METRICS, outcome.facts, kept)
        return dataclasses.replace(outcome, checks=(*outcome.checks, *limits))

    def settings(self) -> dict[str, Any]:
        """Without credentials, and without the limits: they decide on publication, not on any figure.

        With digests of the files that the section names: another content is another evaluation.
        """
        left_out: Any = {"snapshot": True, "storage_options": True, "min": True, "max_drop": True}
        left_out["split"] = {"storage_options"}
        return self.section.model_dump(mode="json", exclude=left_out) | {"files": digests(self.section)}

    def text(self, summary: Mapping[str, Any]) -> list[str]:
        task = task_of(self.section)
        return grid.text(summary, task.METRICS) if self.section.candidates else task.text(summary)

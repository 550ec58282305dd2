"""`reembed evaluate OUTPUT_URI --label COLUMN`: a look at a published snapshot in this process. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.config import with_overrides
from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.job import task_of
from jobs.evaluate.limits import require_known
from jobs.passes.in_process import passes_here
from jobs.passes.source import SourceSnapshot
from workers.config import Section
from workers.errors import UsageError


class _LookConfig(Section):
    evaluate: EvaluateSection


def evaluate_snapshot(target: str, label: str | None, overrides: Iterable[str]) -> dict[str, Any]:
    """The figures of the task. `overrides`: `evaluate.key=value`.

    Raises: UsageError: nothing is published there, or the snapshot does not fit the task.
    """
    raw: dict[str, Any] = {"evaluate": {"snapshot": target, **({"label": label} if label else {})}}
    section = with_overrides(raw, overrides, "reembed evaluate", _LookConfig).evaluate
    if section.task == "classify" and section.label is None:
        raise UsageError(
            "reembed evaluate OUTPUT_URI needs --label COLUMN: the kept column that holds the classes (other tasks by a "
            "configuration file)"
        )
    source = SourceSnapshot.open(section.snapshot, section.storage_options, "evaluate.snapshot", section.column)
    facts = figures_of(source, section)
    return {"source": {"uri": source.uri, "run_id": source.run_id, "rows": source.rows}, **facts}


def figures_of(source: SourceSnapshot, section: EvaluateSection) -> dict[str, Any]:
    """The facts of the task, by passes in this process. Raises: as JobKind.check() and program()."""
    task = task_of(section)
    require_known(section, task.METRICS)
    with passes_here(source, task.check(source, section)) as passes:
        return dict(task.evaluate(passes, section, None).facts)


def look_text(report: Mapping[str, Any]) -> str:
    """The figures as text for a terminal."""
    source = report["source"]
    head = f"{source['uri']}, snapshot {source['run_id']}, {source['rows']:,} rows"
    section = EvaluateSection(snapshot=source["uri"], task=report["task"])
    return "\n".join([head, *(f"  {line}" for line in task_of(section).text(report))])

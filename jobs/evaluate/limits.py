"""`evaluate.min` and `evaluate.max_drop`: conditions under which an evaluation is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.evaluate.config import EvaluateSection
from jobs.passes.kind import Check, Kept
from workers.errors import UsageError


def require_known(section: EvaluateSection, metrics: Sequence[str]) -> None:
    """Raises: UsageError: a bound of a figure that the task does not have."""
    for name in section.min:
        if name not in metrics:
            raise UsageError(f"evaluate.min: {name} is no figure of task={section.task}; there are {', '.join(metrics)}")


def limit_checks(
    section: EvaluateSection, metrics: Sequence[str], facts: Mapping[str, Any], kept: Kept | None
) -> tuple[Check, ...]:
    """One for each bound of `min`, and one for `max_drop`."""
    checks = [_at_least(name, facts.get(name), limit) for name, limit in section.min.items()]
    before = None if kept is None else kept.facts.get(metrics[0])
    if section.max_drop is not None and before is not None:
        checks.append(_dropped(metrics[0], facts.get(metrics[0]), float(before), section.max_drop))
    return tuple(checks)


def _at_least(name: str, value: float | None, limit: float) -> Check:
    ok = value is not None and value >= limit
    shown = "has no value" if value is None else f"is {value:.4f}"
    reason = "" if ok else f"{name} {shown}, evaluate.min asks for {limit}: use other vectors, or lower evaluate.min.{name}"
    return Check(f"min.{name}", ok, reason, value, limit)


def _dropped(name: str, value: float | None, before: float, allowed: float) -> Check:
    drop = None if value is None else before - value
    ok = drop is not None and drop <= allowed
    shown = "has no value" if value is None else f"fell from {before:.4f} to {value:.4f}"
    reason = (
        "" if ok else f"{name} {shown}, evaluate.max_drop allows {allowed}: use other vectors, or raise evaluate.max_drop"
    )
    return Check("max_drop", ok, reason, drop, allowed)

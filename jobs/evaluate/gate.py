"""`gate.evaluate`: what a run's vectors are worth on labelled rows or queries, against the last snapshot's.

    quality_section   the setting, validated: the section of `reembed evaluate` without its snapshot
    judge_quality     one check: the task's main figure, against the last snapshot and against `min`

Both snapshots are measured by the same passes in the driver's process, on at most `sample` rows. The figures are stored with
the run, so the next night measures only its own vectors. It is asked also where the model has changed: then above all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from jobs.config import parse_section
from jobs.evaluate.config import EvaluateSection
from jobs.evaluate.job import task_of
from jobs.evaluate.limits import require_known
from jobs.evaluate.look import figures_of
from jobs.passes.source import SourceSnapshot
from jobs.publish.gate.checks import AGAIN, GateCheck
from jobs.state.current import read_current
from jobs.state.stored_run import StoredRun
from workers.config import Section, StorageOptions
from workers.errors import UsageError

log = logging.getLogger("reembed")

NAME = "evaluate"
SAMPLE = 20_000  # labelled rows, unless the section says otherwise
MAX_DROP = 0.01  # unless the section says otherwise
_SHOWN_CLASSES = 3


class _GateOnly(Section):
    evaluate: EvaluateSection


def quality_section(raw: Mapping[str, Any]) -> EvaluateSection:
    """The setting `gate.evaluate`. Raises: UsageError."""
    if "snapshot" in raw:
        raise UsageError("gate.evaluate.snapshot: leave it out; the run's own vectors are measured, and the last snapshot's")
    given = {"snapshot": ".", "sample": SAMPLE, "max_drop": MAX_DROP, **raw}
    section = parse_section({"evaluate": given}, "gate", _GateOnly).evaluate
    require_known(section, task_of(section).METRICS)
    return section


def judge_quality(run: StoredRun, section: EvaluateSection, options: StorageOptions) -> GateCheck:
    """The run against the snapshot that readers have. `options`: of the output's store.

    Raises: UsageError, TransientError: the store. RunAborted.
    """
    main, allowed = task_of(section).METRICS[0], section.max_drop
    try:
        now = _figures(run, section, options)
    except UsageError as error:  # no such label, one class only: this run cannot be measured
        return GateCheck(NAME, False, None, None, f"not measured: {error}", mend=f"correct gate.evaluate, {AGAIN}")
    before, alone = _before(run, section, options)
    value, old = now.get(main), before.get(main)
    told = f"{section.task} {main} is {_shown(value)}" + (f", the last snapshot's {_shown(old)}" if old is not None else "")
    for name, limit in section.min.items():
        if not _at_least(now.get(name), limit):
            note = f"{told}; {name} is {_shown(now.get(name))}, below {limit}"
            setting = f"gate.evaluate.min.{name}={limit}"
            return GateCheck(NAME, False, now.get(name), limit, note, setting=setting, mend=_mend(f"min.{name}"))
    if old is None or allowed is None:
        return GateCheck(NAME, True, value, None, f"{told}; {alone or 'no max_drop is set'}", skipped=not section.min)
    setting, least = f"gate.evaluate.max_drop={allowed:g}", round(old - allowed, 6)
    if _at_least(value, old - allowed):
        return GateCheck(NAME, True, value, least, told, setting=setting)
    worse = _what_got_worse(now, before)
    note = told + (f"; most of all {worse}" if worse else "")
    return GateCheck(NAME, False, value, least, note, setting=setting, mend=_mend("max_drop"))


def _before(run: StoredRun, section: EvaluateSection, options: StorageOptions) -> tuple[Mapping[str, Any], str]:
    """The figures of the snapshot that readers have, or why there are none."""
    current = read_current(run.store)
    if current is None or current.run_id == run.run_id:
        return {}, "nothing else is published yet"
    last = StoredRun.open(run.store, current.run_id, run.today)
    if last is None:
        return {}, "the last snapshot's run is gone"
    try:
        return _figures(last, section, options), ""
    except UsageError as error:
        log.warning("the last snapshot is not measured by gate.evaluate: %s", error)
        return {}, f"the last snapshot cannot be measured: {error}"


def _figures(run: StoredRun, section: EvaluateSection, options: StorageOptions) -> dict[str, Any]:
    """The facts of the task, as stored with the run or measured now."""
    source = SourceSnapshot.of_run(run, options, "gate.evaluate.snapshot", section.column)
    told = section.model_dump(mode="json", exclude={"snapshot", "storage_options", "min", "max_drop"})
    wanted = hashlib.sha256(json.dumps([told, source.digest], sort_keys=True).encode()).hexdigest()
    path = run.paths.quality
    try:
        stored = json.loads(run.store.read(path))
    except (FileNotFoundError, ValueError):
        stored = {}
    if stored.get("of") != wanted:
        facts = figures_of(source, section)
        stored = {"of": wanted, "facts": facts}
        run.store.put(path, json.dumps(stored).encode())
    measured: dict[str, Any] = stored["facts"]
    return measured


def _what_got_worse(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The classes whose F1 fell most, with both figures; '' for other tasks."""
    new, old = now.get("classes"), before.get("classes")
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return ""
    falls = {name: (old[name]["f1"] or 0.0) - (new[name]["f1"] or 0.0) for name in new if name in old}
    worst = sorted((name for name in falls if falls[name] > 0), key=lambda name: (-falls[name], name))[:_SHOWN_CLASSES]
    return ", ".join(f"{name}: F1 {old[name]['f1'] or 0:.3f} -> {new[name]['f1'] or 0:.3f}" for name in worst)


def _at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _mend(setting: str) -> str:
    return f"use other vectors (model, pooling, prompt), or set gate.evaluate.{setting} otherwise, {AGAIN}"

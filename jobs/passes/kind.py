"""What a job over a snapshot is, beside its passes: its settings, its program, and what the program returns.

JobKind    one job: `cluster`, `reduce`, ... . jobs/passes runs any of them
Kept       what last night's run of the same settings left
Outcome    what a program returns: the last pass, figures, checks, tables, the state to keep
Check      one condition of publication
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from jobs.passes.config import JobConfig, SnapshotSection
from jobs.passes.passes import Passes
from jobs.passes.source import SourceSnapshot
from workers.records.shard import Shard
from workers.vectors.derived import WriteStep
from workers.vectors.step import Partial


@dataclass(frozen=True, slots=True)
class Check:
    """One condition. `reason` says what is wrong, with the figure, the limit and the mend; empty where `ok`."""

    name: str
    ok: bool
    reason: str = ""
    value: float | None = None
    limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "reason": self.reason, "value": self.value, "limit": self.limit}


@dataclass(frozen=True)
class Kept:
    """The last published run of the same settings, in the same output."""

    run_id: str
    state: Partial  # Outcome.state of that run
    facts: Mapping[str, Any]  # Outcome.facts of that run
    shards: Sequence[Shard] = ()  # of that run
    whole: Callable[[], frozenset[int]] = frozenset  # numbers of its shards whose files are all there: one listing

    def is_new(self, shard: Shard) -> bool:
        """Whether the shard holds a part that the run did not have."""
        return self.number_of(shard) is None

    def number_of(self, shard: Shard) -> int | None:
        """The number of the run's shard of the same parts, by their digests; None: there is none."""
        return self._numbers.get(_digests(shard))

    @cached_property
    def _numbers(self) -> Mapping[tuple[str, ...], int]:
        return {_digests(shard): shard.number for shard in self.shards}


def _digests(shard: Shard) -> tuple[str, ...]:
    return tuple(piece.etag for piece in shard.slices)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the program has found. Nothing of it is visible to readers before it is published."""

    step: WriteStep | None = None  # the last pass; None: the job writes `tables` alone
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values, for summary.json, --json and CURRENT.json
    checks: Sequence[Check] = ()  # one that is not ok: exit 3, not published
    state: Partial = field(default_factory=dict)  # what the next night's program is given
    carry: bool = False  # the state is last night's: parts whose source parts are unchanged are copied, not made again
    model: Mapping[str, Any] = field(default_factory=dict)  # of new vectors: what differs from the source's
    tables: Mapping[str, pa.Table] = field(default_factory=dict)  # name -> data/<run_id>/<name>.parquet
    report: Sequence[tuple[str, str]] = ()  # (title, HTML) of the report's sections; text in it is escaped already


class JobKind(ABC):
    """A job over a snapshot.

    Args (every subclass's constructor): its configuration.
    """

    name: str  # as the command
    writes_parts: bool = True  # False: its output is Outcome.tables alone, below data/<run_id>/

    def __init__(self, config: JobConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def section(self) -> SnapshotSection:
        """The job's own section."""

    @abstractmethod
    def check(self, source: SourceSnapshot) -> tuple[str, ...]:
        """Refuse what can be refused before anything is written. Returns the columns of the snapshot that steps read.

        Raises: UsageError.
        """

    def divide(self, source: SourceSnapshot, kept: Kept | None) -> Sequence[Shard]:
        """The shards of a run. `carried`: the shard of last night's run whose files may be copied."""
        return [replace(shard, carried=None if kept is None else kept.number_of(shard)) for shard in source.shards]

    @abstractmethod
    def program(self, passes: Passes, kept: Kept | None) -> Outcome:
        """Deterministic: called again from the beginning when the job is resumed (passes.py).

        `kept`: None for the first run, for other settings or another model than last night's, or if nothing may be kept.
        """

    @abstractmethod
    def text(self, summary: Mapping[str, Any]) -> list[str]:
        """Lines for a terminal, after those that all jobs have. `summary`: with the job's own facts at its top level."""

    def settings(self) -> dict[str, Any]:
        """Everything of the configuration that changes the output."""
        return self.section.model_dump(mode="json", exclude={"snapshot", "storage_options"})

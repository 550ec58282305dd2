"""Runs in memory: the common part of planned and begun runs, and the begun run.

    RunOutline    request, id, shards, read plan
    Run           a begun run: its run.json is on storage. A PlannedRun (planned_run.py) has not begun

A begun run keeps the settings of its first driver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.config import RunConfig
from jobs.driver.lock import DriverLock
from jobs.planning.request import Request
from jobs.state.accounting import Work
from jobs.state.current import published_by_hand, read_current
from jobs.state.manifest import load_manifest
from jobs.state.records import RunRecord, RunState, read_status, read_summary, write_status, write_summary
from jobs.state.stored_run import StoredRun
from workers.config import Auto, Precision
from workers.errors import RunAborted
from workers.records.documents import ReadPlan
from workers.records.shard import Receipt, Shard
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.representations import told, with_scales
from workers.table.schema import EMBEDDING, SnapshotStamp


class ReuseRefused(RunAborted):
    """No replica can work in the precision of the run's base: the run must be planned again, without reuse."""


@dataclass(frozen=True, slots=True)
class RunOutline:
    """The facts of a run that are known before it begins."""

    request: Request
    run_id: str
    shards: Sequence[Shard]
    plan: ReadPlan

    @property
    def config(self) -> RunConfig:
        return self.request.config

    @property
    def store(self) -> Store:
        return self.request.store

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.run_id)

    @property
    def embeds(self) -> bool:
        """Whether any shard must be embedded, not only copied."""
        return not self.shards or any(shard.carried is None for shard in self.shards)

    def discard(self, lock: DriverLock) -> None:
        """Delete a run of which nothing was embedded, run.json first. Raises: RunAborted."""
        lock.check()
        for path in (self.paths.record, *self.store.list(self.paths.root), *self.store.list(self.paths.data)):
            self.store.delete(path)

    def stamp_with(
        self, precision: str, int8_scale: float | None, int8_scales: Mapping[str, float] | None = None
    ) -> SnapshotStamp:
        """What the footer of every part says of its origin, given precision and scale.

        `int8_scales`: of the other int8 columns, by name.
        """
        model, recipe = self.request.model, self.request.recipe
        formats = with_scales(self.request.formats, {**(int8_scales or {}), EMBEDDING: int8_scale})
        vectors, scales = told(formats)
        return SnapshotStamp(
            run_id=self.run_id,
            model=model.name,
            revision=model.revision,
            weights_digest=model.weights_digest,
            tokenizer_digest=model.tokenizer_digest,
            pooling=recipe.pooling_name,
            normalize=recipe.normalize,
            precision=precision,
            prompt=recipe.prompt,
            dim=formats[0].dim,
            vector=formats[0].vector,
            int8_scale=int8_scale,
            max_tokens=recipe.max_tokens,
            long_text=recipe.long_text,
            vectors=vectors,
            int8_scales=scales,
        )


@dataclass(frozen=True, slots=True)
class Run(RunOutline):
    """A begun run."""

    record: RunRecord
    current: bool = False  # CURRENT.json names this run
    forced: Mapping[str, Any] | None = None  # who published it against its checks, from CURRENT.json

    @classmethod
    def open(cls, request: Request, record: RunRecord) -> Run:
        """Raises: UsageError, RunAborted: its manifest or CURRENT.json is missing or damaged. TransientError."""
        shards, _ = load_manifest(request.store, RunPaths(record.run_id).manifest, request.settings)
        current = read_current(request.store)
        mine = current if current is not None and current.run_id == record.run_id else None
        plan = record.read_plan(request.config.corpus)
        return cls(request, record.run_id, shards, plan, record, mine is not None, mine.forced if mine else None)

    @property
    def objects(self) -> dict[str, int]:
        """The number of unchanged, changed, new and deleted objects at planning time."""
        return dict(self.record.extra.get("objects", {}))

    @property
    def precision(self) -> Precision:
        """The precision of every replica."""
        return Precision(self.record.model["precision"])

    @property
    def took_precision(self) -> bool:
        """Whether the run works in its base's precision because the configuration left it open."""
        return self.record.base is not None and self.config.model.precision is Precision.AUTO

    @property
    def batch_tokens(self) -> int | Auto:
        """Token budget of a batch; runs begun by version 0.1.0 or earlier may not store it."""
        return self.record.batch_tokens or self.config.model.batch_tokens

    @property
    def way(self) -> str | None:
        """The way to run the model that every replica takes; None in runs begun by an earlier version."""
        return self.record.way

    @property
    def stamp(self) -> SnapshotStamp:
        """What the footer of every part says of its origin."""
        return self.stamp_with(self.record.model["precision"], self.record.int8_scale, self.record.int8_scales)

    def stored(self, receipts: Mapping[int, Receipt]) -> StoredRun:
        """The same run as a StoredRun, with its shards and these receipts in memory."""
        return StoredRun.in_memory(self.store, self.record, self.shards, receipts)

    def work(self) -> Work:
        """The work of earlier drivers, from their last status; the present driver adds one session."""
        status = read_status(self.store, self.run_id) or {}
        spent = status.get("work")
        return dataclasses.replace(Work(**spent), sessions=spent["sessions"] + 1) if spent else Work()

    def write_status(self, status: Mapping[str, Any], work: Work) -> None:
        """Raises: UsageError, TransientError."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        document = {"run_id": self.run_id, "updated": now} | dict(status) | {"work": dataclasses.asdict(work)}
        write_status(self.store, self.run_id, document)

    def mark_stopped(self, reason: str) -> None:
        """Write state=stopped, unless another step has already done so (the status is not `running` then)."""
        status = read_status(self.store, self.run_id)
        if status and status["state"] == RunState.RUNNING:
            write_status(self.store, self.run_id, status | {"state": RunState.STOPPED.value, "reason": reason})

    def end(self, summary: Mapping[str, Any]) -> None:
        """Store the summary. status.json keeps the work, for a run that is opened again."""
        write_summary(self.store, self.run_id, summary)

    def summary(self) -> dict[str, Any]:
        """As stored; empty before it ended. CURRENT.json tells of a forced publication that was killed before this file."""
        stored = read_summary(self.store, self.run_id) or {}
        return stored | published_by_hand(self.forced) if stored and self.forced else stored

    def reuse_facts(self, carried_shards: int) -> dict[str, Any]:
        """`reuse` of summary.json."""
        return {"base": self.record.base, "objects": self.objects, "carried_shards": carried_shards}

    def facts(self) -> dict[str, Any]:
        """As RunRecord.facts()."""
        return self.record.facts()

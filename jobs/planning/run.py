"""Runs in memory: what a planned and a begun one have in common, and the begun one.

    RunOutline    request, id, shards, read plan
    Run           a run that was begun: run.json stands on storage. PlannedRun (planned_run.py) is one that was not

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
from workers.table.schema import SnapshotStamp


class ReuseRefused(RunAborted):
    """No replica works in the precision that the run took over from its base: plan it again, without reuse."""


@dataclass(frozen=True, slots=True)
class RunOutline:
    """What is known of a run before and after it begins."""

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
        """Whether there is more to do than to copy."""
        return not self.shards or any(shard.carried is None for shard in self.shards)

    def discard(self, lock: DriverLock) -> None:
        """Take back a run of which nothing was embedded: without run.json it was never begun. Raises: RunAborted."""
        lock.check()
        for path in (self.paths.record, *self.store.list(self.paths.root), *self.store.list(self.paths.data)):
            self.store.delete(path)

    def stamp_with(self, precision: str, int8_scale: float | None) -> SnapshotStamp:
        """What every part says of its origin, once precision and scale are known."""
        model, recipe = self.request.model, self.request.recipe
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
            dim=recipe.dim or 0,
            vector=self.config.output.vector,
            int8_scale=int8_scale,
            max_tokens=recipe.max_tokens,
            long_text=recipe.long_text,
        )


@dataclass(frozen=True, slots=True)
class Run(RunOutline):
    """A begun run."""

    record: RunRecord
    current: bool = False  # readers of CURRENT.json see this run
    forced: Mapping[str, Any] | None = None  # who published it against its checks, by CURRENT.json

    @classmethod
    def open(cls, request: Request, record: RunRecord) -> Run:
        """Raises: UsageError, RunAborted: its manifest, or CURRENT.json, is gone or damaged. TransientError."""
        shards, _ = load_manifest(request.store, RunPaths(record.run_id).manifest, request.settings)
        current = read_current(request.store)
        mine = current if current is not None and current.run_id == record.run_id else None
        plan = record.read_plan(request.config.corpus)
        return cls(request, record.run_id, shards, plan, record, mine is not None, mine.forced if mine else None)

    @property
    def objects(self) -> dict[str, int]:
        """How many objects were unchanged, changed, new and deleted when the run was planned."""
        return dict(self.record.extra.get("objects", {}))

    @property
    def precision(self) -> Precision:
        """Of every replica."""
        return Precision(self.record.model["precision"])

    @property
    def took_precision(self) -> bool:
        """Whether the run works in its base's precision because the configuration left it open."""
        return self.record.base is not None and self.config.model.precision is Precision.AUTO

    @property
    def batch_tokens(self) -> int | Auto:
        """Token budget of a batch; runs begun by version 0.1.0 or earlier may not tell it."""
        return self.record.batch_tokens or self.config.model.batch_tokens

    @property
    def stamp(self) -> SnapshotStamp:
        """What every part says of its origin."""
        return self.stamp_with(self.record.model["precision"], self.record.int8_scale)

    def stored(self, receipts: Mapping[int, Receipt]) -> StoredRun:
        """The same run as every reader of storage sees it, with its shards and these receipts at hand."""
        return StoredRun.in_memory(self.store, self.record, self.shards, receipts)

    def work(self) -> Work:
        """What earlier drivers spent, as far as their last status tells; this one counts as a session more."""
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
        """Store how it ended; status.json keeps the work for a run that is opened again."""
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

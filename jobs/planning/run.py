"""Which run a command means, and what is known of it: the one that was interrupted, one made before, or a new one.

    find_resumable     an unfinished run of the same settings: its manifest stands, however the source has changed since
    plan_or_reopen     the source listed now: an ended run of the same settings and source, or a new cut    (writes nothing)
                       that reuses what the published snapshot holds already (jobs/planning/reuse.py)
    Run.begin          manifest, then run.json: from here on the run exists. On a base no replica is asked first

A run that was made before is never embedded again: it is published again, or refused again, from its receipts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.config import RunConfig
from jobs.corpus.discovery import discover
from jobs.corpus.metadata_cache import save_memory
from jobs.driver.lock import DriverLock
from jobs.planning.matching import Reuse
from jobs.planning.request import Request
from jobs.planning.reuse import RECIPE, Planned, find_reuse, open_base, recipe_facts
from jobs.planning.sharding import cut
from jobs.publish.publish import published_by_hand, read_current
from jobs.report.summary import Work
from jobs.state.manifest import load_manifest, save_manifest
from jobs.state.records import (
    RunPaths,
    RunRecord,
    config_snapshot,
    create_run,
    find_unfinished,
    new_run_id,
    newest_run,
    plan_to_json,
    read_status,
    read_summary,
    write_status,
    write_summary,
)
from workers import __version__
from workers.config import Precision
from workers.errors import RunAborted
from workers.records.documents import ReadPlan
from workers.records.shard import Shard
from workers.storage.objects import Store
from workers.table.schema import SnapshotStamp, output_schema

__all__ = ["Planned", "Request", "ReuseRefused", "Run", "find_resumable", "plan_or_reopen"]


class ReuseRefused(RunAborted):
    """No replica works in the precision that the run took over from its base: plan it again, without reuse."""


@dataclass(slots=True)
class Run:
    """One run: planned (no record yet), or begun."""

    request: Request
    run_id: str
    shards: Sequence[Shard]
    plan: ReadPlan
    source_fingerprint: str
    record: RunRecord | None = None
    current: bool = False  # readers of CURRENT.json see this run
    forced: Mapping[str, Any] | None = None  # who published it against its checks, by CURRENT.json
    planned: Planned | None = None
    predict: Callable[[], dict[str, Any]] = dict  # of a new run: see jobs/planning/prediction.py

    @property
    def reuse(self) -> Reuse | None:
        """Of a new run: what it takes from its base, if anything."""
        return self.planned.serving if self.planned else None

    @property
    def objects(self) -> dict[str, int]:
        """How many objects were unchanged, changed, new and deleted when the run was planned."""
        if self.record is not None:
            return dict(self.record.extra.get("objects", {}))
        return self.planned.objects if self.planned else {}

    @property
    def took_precision(self) -> bool:
        """Whether the run works in its base's precision because the configuration left it open."""
        return self.record is not None and self.record.base is not None and self.config.model.precision is Precision.AUTO

    @property
    def embeds(self) -> bool:
        """Whether there is more to do than to copy."""
        return not self.shards or any(shard.carried is None for shard in self.shards)

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
    def stamp(self) -> SnapshotStamp:
        """What every part says of its origin; complete once the run has begun."""
        precision, scale = (self.record.model["precision"], self.record.int8_scale) if self.record else ("float32", None)
        return self.stamped(precision, scale)

    def stamped(self, precision: str, int8_scale: float | None) -> SnapshotStamp:
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

    def begin_on_base(self) -> None:
        """Begin in the base's precision, int8 scale and token budget: its vectors stay next to those made now."""
        if self.planned is None or self.planned.base is None:
            raise RuntimeError("the run has no base to begin on")
        base, budget = self.planned.base.record, self.config.model.batch_tokens
        self.begin(base.model["precision"], base.int8_scale, base.batch_tokens if budget == "auto" else budget)

    def begin(self, precision: str, int8_scale: float | None, batch_tokens: int | None) -> None:
        """Store the cut, then run.json; the settings of the first driver hold for all later ones."""
        config, reuse, predicted = self.config, self.reuse, self.predict()
        stamp = dataclasses.asdict(self.stamped(precision, int8_scale))
        self.shards = save_manifest(self.store, self.paths.manifest, self.shards, self.request.settings)
        if self.planned is not None:
            save_memory(self.store, self.paths.objects, self.planned.corpus.objects, self.planned.corpus.columns)
        counts = [shard.rows for shard in self.shards]
        record = RunRecord(
            run_id=self.run_id,
            fingerprint=self.request.settings,
            source_fingerprint=self.source_fingerprint,
            config=config_snapshot(config),
            plan=plan_to_json(self.plan),
            model={key: stamp[key] for key in _MODEL_FACTS} | {"name": stamp["model"], "vector": str(stamp["vector"])},
            shards=len(self.shards),
            rows=None if None in counts else sum(count or 0 for count in counts),
            code_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            int8_scale=int8_scale,
            batch_tokens=batch_tokens,
            base=reuse.base if reuse else None,
            extra={RECIPE: recipe_facts(self.request.recipe), "objects": self.objects}
            | ({"predicted": predicted} if predicted else {}),
        )
        create_run(self.store, record)
        self.record = record

    def discard(self, lock: DriverLock) -> None:
        """Take a run back that nothing was embedded for: without run.json it was never begun. Raises: RunAborted."""
        lock.check()
        for path in (self.paths.record, *self.store.list(self.paths.root), *self.store.list(self.paths.data)):
            self.store.delete(path)

    def work(self) -> Work:
        """What earlier drivers spent, as far as their last status tells; this one counts as a session more."""
        stored = (read_status(self.store, self.run_id) or {}).get("work")
        return dataclasses.replace(Work(**stored), sessions=stored["sessions"] + 1) if stored else Work()

    def write_status(self, status: Mapping[str, Any], work: Work) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        document = {"run_id": self.run_id, "updated": now} | dict(status) | {"work": dataclasses.asdict(work)}
        write_status(self.store, self.run_id, document)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Store how it ended; status.json keeps the work for a run that is opened again."""
        write_summary(self.store, self.run_id, summary)

    def summary(self) -> dict[str, Any]:
        """As stored; of a publication by force that was killed before it could say so here, CURRENT.json tells."""
        stored = read_summary(self.store, self.run_id) or {}
        return stored | published_by_hand(self.forced) if stored and self.forced else stored

    def reuse_facts(self, carried_shards: int) -> dict[str, Any]:
        """`reuse` of summary.json."""
        base = self.record.base if self.record else None
        return {"base": base, "objects": self.objects, "carried_shards": carried_shards}

    def facts(self) -> dict[str, Any]:
        """As RunRecord.facts(); nothing before the run has begun."""
        return self.record.facts() if self.record else {}


_MODEL_FACTS = (
    "revision", "weights_digest", "tokenizer_digest", "pooling", "normalize", "precision", "prompt", "dim", "max_tokens",
    "long_text",
)  # fmt: skip


def find_resumable(request: Request) -> Run | None:
    """The newest unfinished run of these settings. Raises: UsageError, RunAborted, TransientError."""
    record = find_unfinished(request.store, request.settings)
    return _open(request, record) if record else None


def plan_or_reopen(request: Request, *, reuse: bool = True) -> Run:
    """List the source; an ended run of the same settings and source, or a new one that is not yet on storage.

    `reuse=False`: as if run.reuse were off.

    Raises:
        UsageError: the source or its columns do not fit the configuration; nothing was written.
    """
    config = request.config
    base = open_base(request.store) if reuse and config.run.reuse == "auto" else None
    corpus = discover(config.corpus, config.output.partition_by, base.memory(config) if base else None)
    record = newest_run(request.store, request.settings, corpus.source_fingerprint)
    if record is not None:
        return _open(request, record)
    found = find_reuse(base, config, request.vector_facts, request.recipe, corpus) if base else None
    shards = cut(corpus, config.run.shard_bytes, id_given=config.corpus.id is not None, reuse=found)
    run_id = new_run_id(request.settings, datetime.now(UTC))
    planned = Planned(corpus, base, found)
    run = Run(request, run_id, shards, corpus.read_plan, corpus.source_fingerprint, planned=planned)
    output_schema(run.plan, run.stamp, config.output.partition_by)  # refuses what cannot be written before anything is
    return run


def _open(request: Request, record: RunRecord) -> Run:
    shards, _ = load_manifest(request.store, RunPaths(record.run_id).manifest, request.settings)
    current = read_current(request.store)
    return Run(
        request,
        record.run_id,
        shards,
        record.read_plan(request.config.corpus),
        record.source_fingerprint,
        record,
        current=current is not None and current.run_id == record.run_id,
        forced=current.forced if current is not None and current.run_id == record.run_id else None,
    )

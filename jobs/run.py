"""Which run a command means, and what is known of it: the one that was interrupted, one made before, or a new one.

    Request.resolve    configuration -> model on this machine, recipe, settings fingerprint          (writes nothing)
    find_resumable     an unfinished run of the same settings: its manifest stands, however the source has changed since
    plan_or_reopen     the source listed now: an ended run of the same settings and source, or a new cut    (writes nothing)
    Run.begin          manifest, then run.json: from here on the run exists

A run that was made before is never embedded again: it is published again, or refused again, from its receipts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.config import RunConfig
from jobs.corpus import discover
from jobs.manifest import cut, load_manifest, save_manifest
from jobs.preflight import require_endpoint, require_output
from jobs.report import Work
from jobs.run_store import (
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
    settings_fingerprint,
    write_status,
    write_summary,
)
from jobs.snapshot import published_by_hand, read_current
from workers import __version__
from workers.documents import ReadPlan
from workers.errors import UsageError
from workers.model_files import ModelFiles, resolve_model
from workers.model_layout import EmbeddingRecipe, read_layout
from workers.output_schema import SnapshotStamp, output_schema
from workers.shard import Shard
from workers.storage import Store
from workers.tokenization import TextTokenizer


@dataclass(frozen=True, slots=True)
class Request:
    """A configuration, resolved as far as it goes without Ray and without looking at the source."""

    config: RunConfig
    store: Store
    model: ModelFiles
    recipe: EmbeddingRecipe
    settings: str  # fingerprint of everything that changes rows or vectors

    @classmethod
    def resolve(cls, config: RunConfig) -> Request:
        """Raises: UsageError: the model cannot be used, or the output not be reached. TransientError."""
        store = Store(config.output.uri, config.output.storage_options)
        require_output(config.output, store)
        require_endpoint(config.model.name, config.model.storage_options, "model.name")
        model = resolve_model(config.model)
        recipe = read_layout(model, config.model)
        if recipe.dim is None:
            raise UsageError(f"model.name={model.name}: its config.json does not tell the hidden size; use another model")
        TextTokenizer(model.folder, recipe)  # refuses settings that leave no room for text
        settings = settings_fingerprint(config, model.weights_digest, model.tokenizer_digest, dataclasses.asdict(recipe))
        return cls(config, store, model, recipe, settings)


@dataclass(slots=True)
class Run:
    """One run: planned (no record yet), or begun."""

    request: Request
    run_id: str
    shards: list[Shard]
    plan: ReadPlan
    source_fingerprint: str
    record: RunRecord | None = None
    current: bool = False  # readers of CURRENT.json see this run
    forced: Mapping[str, Any] | None = None  # who published it against its checks, by CURRENT.json

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

    def begin(self, precision: str, int8_scale: float | None, batch_tokens: int) -> None:
        """Store the cut, then run.json; the settings of the first driver hold for all later ones."""
        config = self.config
        stamp = dataclasses.asdict(self.stamped(precision, int8_scale))
        self.shards = save_manifest(self.store, self.paths.manifest, self.shards, self.request.settings)
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
        )
        create_run(self.store, record)
        self.record = record

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


def plan_or_reopen(request: Request) -> Run:
    """List the source; an ended run of the same settings and source, or a new one that is not yet on storage.

    Raises:
        UsageError: the source or its columns do not fit the configuration; nothing was written.
    """
    config = request.config
    corpus = discover(config.corpus, config.output.partition_by)
    record = newest_run(request.store, request.settings, corpus.source_fingerprint)
    if record is not None:
        return _open(request, record)
    shards = cut(corpus, config.run.shard_bytes, id_given=config.corpus.id is not None)
    run_id = new_run_id(request.settings, datetime.now(UTC))
    run = Run(request, run_id, shards, corpus.read_plan, corpus.source_fingerprint)
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

"""The run of a job over a snapshot: which one a command resumes or begins, and its record.

    choose      an unfinished run of the same settings and source is resumed; an ended one is the answer; else a new one
    DerivedRun  a begun run: record, shards, and last night's run of the same settings
    kept_of     what last night's run left

A derived run is stored as the embedding run's are (run.json, manifest, receipts, CURRENT.json), so that status, snapshots,
rollback and retention know it. Its record repeats the source's configuration and model, and adds the job and the source.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.passes.kind import JobKind, Kept
from jobs.passes.source import SourceSnapshot
from jobs.publish.carry_over import whole_shards
from jobs.state.current import read_current
from jobs.state.manifest import load_manifest, save_manifest
from jobs.state.records import (
    JOB,
    SETTINGS,
    SOURCE,
    UNFINISHED,
    RunRecord,
    create_run,
    new_run_id,
    newest_run,
    read_summary,
)
from jobs.state.stored_run import StoredRun
from workers import __version__
from workers.errors import UsageError
from workers.records.shard import ObjectSlice, Shard
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.schema import EMBEDDING
from workers.vectors.arrays import load_arrays
from workers.vectors.derived import DerivedStamp

FACTS = "facts"  # in the summary: Outcome.facts
TABLES = 0  # the one shard of a job without parts: its receipt has the tables
_OF_THE_VECTORS = ("weights_digest", "tokenizer_digest", "pooling", "normalize", "precision", "prompt", "dim", "vector")


@dataclass(frozen=True, slots=True)
class DerivedRun:
    """A begun run of a job."""

    store: Store
    record: RunRecord
    shards: Sequence[Shard]
    kept: Kept | None
    new: bool  # begun by this command, not resumed

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.run_id)

    @property
    def stamp(self) -> DerivedStamp:
        """What the footer of every part says of its origin."""
        source = self.record.extra[SOURCE]
        return DerivedStamp(self.run_id, str(self.record.job), source["run_id"], source["uri"])


def fingerprint(kind: JobKind, source: SourceSnapshot) -> str:
    """SHA-256 (hex) of what last night's state depends on: the job, its settings, and how the source's vectors are made."""
    made = {name: source.run.record.model.get(name) for name in _OF_THE_VECTORS}
    if source.column != EMBEDDING:
        made["column"] = dataclasses.asdict(source.schema.vector_format)
    told = json.dumps([kind.name, kind.settings(), made, source.run.record.int8_scale], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def ended_run(store: Store, kind: JobKind, source: SourceSnapshot) -> dict[str, Any] | None:
    """The summary of a published run of the same settings and source that readers have now; None: there is work to do."""
    current = read_current(store)
    newest = newest_run(store, fingerprint(kind, source), source.digest)
    if current is None or newest is None or newest.run_id != current.run_id:
        return None
    summary = read_summary(store, newest.run_id)
    return summary if summary and summary.get("published") else None


def choose(store: Store, kind: JobKind, source: SourceSnapshot) -> DerivedRun:
    """The unfinished run of these settings over this very snapshot, or a new one, begun. The lock must be held.

    Raises: UsageError: the output is another job's. RunAborted, TransientError.
    """
    settings = fingerprint(kind, source)
    _require_own(store, kind)
    current = read_current(store)
    readers = current.run_id if current is not None else None
    newest = newest_run(store, settings, source.digest)
    if newest is not None and newest.extra.get(SOURCE, {}).get("run_id") == source.run_id:
        summary = read_summary(store, newest.run_id)
        if summary is None or summary.get("state") in UNFINISHED:
            shards, _ = load_manifest(store, RunPaths(newest.run_id).manifest, settings)
            # Readers have the run itself where its driver died between CURRENT.json and the summary.
            base = newest.base if readers in (newest.base, newest.run_id) else None
            kept = kept_of(store, kind, settings, base)
            if newest.base is None or kept is not None:
                return DerivedRun(store, newest, shards, kept, new=False)
    return _begin(store, kind, source, settings, kept_of(store, kind, settings, readers))


def _begin(store: Store, kind: JobKind, source: SourceSnapshot, settings: str, kept: Kept | None) -> DerivedRun:
    run_id = new_run_id(settings, datetime.now(UTC))
    planned: Sequence[Shard] = [Shard(TABLES, (ObjectSlice(source.uri, 0, source.digest, 0, 0),), 0)]
    if kind.writes_parts:
        planned = kind.divide(source, kept)
    shards = save_manifest(store, RunPaths(run_id).manifest, planned, settings)
    origin = source.run.record
    config = json.loads(json.dumps(origin.config))
    config["output"]["uri"] = redact(store.uri)
    record = RunRecord(
        run_id=run_id,
        fingerprint=settings,
        source_fingerprint=source.digest,
        config=config,
        plan=origin.plan,
        model=dict(origin.model),
        shards=len(shards),
        rows=source.rows,
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        int8_scale=origin.int8_scale,
        base=kept.run_id if kept is not None else None,
        extra={
            **origin.extra,
            JOB: kind.name,
            SETTINGS: kind.settings(),
            SOURCE: {"uri": source.uri, "run_id": source.run_id, "digest": source.digest, "rows": source.rows},
        },
    )
    create_run(store, record)
    return DerivedRun(store, record, shards, kept, new=True)


def kept_of(store: Store, kind: JobKind, settings: str, run_id: str | None) -> Kept | None:
    """What that run left; None if there is none, or if it is another job's or of other settings."""
    run = StoredRun.open(store, run_id) if run_id is not None else None
    if run is None or run.job != kind.name or run.record.fingerprint != settings:
        return None
    summary = read_summary(store, run.run_id) or {}
    state = load_arrays(store, run.paths.state) or {}
    whole = functools.partial(whole_shards, store, run.run_id)
    return Kept(run.run_id, state, summary.get(FACTS, {}), run.shards, whole)


def _require_own(store: Store, kind: JobKind) -> None:
    newest = newest_run(store)
    if newest is not None and newest.job != kind.name:
        theirs = f"`reembed {newest.job or 'embed'}`"
        raise UsageError(f"output.uri={redact(store.uri)}: holds runs of {theirs}; give this job a folder of its own")

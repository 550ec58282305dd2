"""StoredRun: a begun run, opened from storage. It is the only way to read an earlier run.

    StoredRun.open        reads run.json; None if there is no such run
    .shards .receipts     read on first access, then kept
    .stamp .schema        the footer and the columns of its parts

Resume, reuse, the gate, verify, search, rollback and publish read earlier runs through it. Nothing is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.config import RunConfig, parse_config
from jobs.state.ledger import load_receipts
from jobs.state.manifest import load_manifest
from jobs.state.receipts import Files
from jobs.state.records import JOB, SOURCE, RunRecord, read_run
from workers.config import LongText, Pooling, VectorType
from workers.errors import RunAborted
from workers.records.documents import ReadPlan
from workers.records.shard import Receipt, Shard
from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.table.representations import parsed, told, with_scales
from workers.table.schema import EMBEDDING, OutputSchema, SnapshotStamp, output_schema
from workers.table.sparse import sparse_format
from workers.table.vectors import VectorFormat


@dataclass(frozen=True)
class StoredRun:
    """One run. `today` is the present command's configuration, which supplies locations, credentials and query prompt."""

    store: Store
    record: RunRecord
    today: RunConfig | None = None

    @classmethod
    def open(cls, store: Store, run_id: str, today: RunConfig | None = None) -> StoredRun | None:
        """None if there is no such run. Raises: RunAborted: run.json is invalid. UsageError, TransientError."""
        return cls(store, record, today) if (record := read_run(store, run_id)) else None

    @classmethod
    def in_memory(
        cls, store: Store, record: RunRecord, shards: Sequence[Shard], receipts: Mapping[int, Receipt]
    ) -> StoredRun:
        """A run whose shards and receipts are in memory already, so that they are not read again."""
        run = cls(store, record)
        vars(run).update(shards=shards, receipts=receipts)  # where cached_property stores them
        return run

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def job(self) -> str | None:
        """As RunRecord.job."""
        return self.record.job

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.run_id)

    @cached_property
    def shards(self) -> Sequence[Shard]:
        """Raises: FileNotFoundError: no manifest. RunAborted: damaged. UsageError, TransientError."""
        return load_manifest(self.store, self.paths.manifest, self.record.fingerprint)[0]

    @cached_property
    def receipts(self) -> Mapping[int, Receipt]:
        """By shard number. Raises: RunAborted: a file is not a receipt. UsageError, TransientError."""
        return load_receipts(self.store, self.run_id)

    @property
    def files(self) -> Files:
        """The run's part files, as its receipts describe them. Raises: as `receipts`."""
        return Files(self.receipts)

    @cached_property
    def config(self) -> RunConfig:
        """The run's own configuration, with the locations, credentials and query prompt of `today`."""
        raw = {name: dict(section) for name, section in self.record.config.items()}
        if "query_prompt" not in raw["model"]:  # of version 0.1, where an empty prompt left it to the model
            raw["model"]["prompt"] = raw["model"]["prompt"] or None
        if self.today is not None:
            today = self.today
            for name, section in (("corpus", today.corpus), ("model", today.model), ("output", today.output)):
                raw[name]["storage_options"] = section.storage_options
            raw["output"]["uri"], raw["model"]["name"] = today.output.uri, today.model.name
            raw["model"]["revision"] = today.model.revision
            if today.model.query_prompt is not None:  # of searches: today's counts
                raw["model"]["query_prompt"] = today.model.query_prompt
        return parse_config(raw, self.store.uri_of(self.paths.record))

    @property
    def plan(self) -> ReadPlan:
        return self.record.read_plan(self.config.corpus)

    @cached_property
    def stamp(self) -> SnapshotStamp:
        """What the footers of its parts say of their origin."""
        return self._stamp_of(self.model)

    @property
    def source_stamp(self) -> SnapshotStamp:
        """Of a derived run: as the parts of its source say."""
        return self._stamp_of(self.record.model)

    def _stamp_of(self, model: Mapping[str, Any]) -> SnapshotStamp:
        facts = dict(model)
        scale = facts.pop("int8_scale", self.record.int8_scale)
        main = VectorFormat(VectorType(facts["vector"]), scale, EMBEDDING, facts["dim"])
        formats = parsed(main, facts.pop("vectors", ""))
        vectors, scales = told(with_scales(formats, {**self.record.int8_scales, EMBEDDING: scale}))
        return SnapshotStamp(
            run_id=self.run_id,
            model=facts.pop("name"),
            vector=VectorType(facts.pop("vector")),
            long_text=LongText(facts.pop("long_text")),
            int8_scale=scale,
            vectors=vectors,
            int8_scales=scales,
            **facts,
        )

    @cached_property
    def model(self) -> dict[str, Any]:
        """RunRecord.model; of a job that makes new vectors of a snapshot's, with what it found (dim, vector, int8_scale).

        Raises: RunAborted: the document is invalid. UsageError, TransientError.
        """
        if self.job is None:
            return self.record.model
        try:
            return self.record.model | dict(json.loads(self.store.read(self.paths.shape)))
        except FileNotFoundError:
            return self.record.model
        except (ValueError, TypeError) as error:
            raise RunAborted(f"{self.store.uri_of(self.paths.shape)}: damaged ({error}); run the job again") from None

    def facts(self) -> dict[str, Any]:
        """RunRecord.facts() with the model as it is used; of a derived run also its job and its source."""
        derived = {name: self.record.extra[name] for name in (JOB, SOURCE) if name in self.record.extra}
        return self.record.facts() | {"model": self.model} | derived

    @property
    def schema(self) -> OutputSchema:
        nullable = self.record.nullable_elements
        return output_schema(self.plan, self.stamp, self.config.output.partition_by, nullable_elements=nullable)

    @property
    def stored(self) -> VectorFormat:
        """The format of its stored vectors, in the main column."""
        if self.model.get("pooling") == Pooling.SPARSE:
            return sparse_format(self.model["dim"])
        return VectorFormat(VectorType(self.model["vector"]), self.model.get("int8_scale", self.record.int8_scale))

    @property
    def formats(self) -> tuple[VectorFormat, ...]:
        """Of all columns of vectors, the main one first."""
        return self.stamp.formats if self.model.get("vectors") else (self.stored,)

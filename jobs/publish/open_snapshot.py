"""What is published under an output, opened for reading: shared by verify, search and files.

A target is a configuration file or the output's URI. Of a configuration only places and credentials count here; what the
snapshot was made of and with is read from the run itself, so a configuration edited since cannot misrepresent it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import RunConfig, load_config, parse_config
from jobs.publish.publish import Current, read_current
from jobs.state.ledger import load_receipts
from jobs.state.manifest import load_manifest
from jobs.state.receipts import Receipts
from jobs.state.records import RunPaths, RunRecord, read_run
from workers.config import LongText, VectorType
from workers.errors import UsageError
from workers.records.documents import ReadPlan
from workers.records.shard import OutputFile, Shard
from workers.storage.objects import Store, redact
from workers.table.schema import OutputSchema, SnapshotStamp, output_schema

if TYPE_CHECKING:
    from workers.replica.embedder import Embedder


@dataclass(frozen=True)
class Published:
    """The snapshot that CURRENT.json names."""

    store: Store
    current: Current
    record: RunRecord
    config: RunConfig  # of the run, with today's storage options

    @property
    def run_id(self) -> str:
        return self.current.run_id

    @cached_property
    def receipts(self) -> Receipts:
        return load_receipts(self.store, self.run_id)

    @cached_property
    def shards(self) -> Sequence[Shard]:
        return load_manifest(self.store, RunPaths(self.run_id).manifest, self.record.fingerprint)[0]

    @property
    def plan(self) -> ReadPlan:
        return self.record.read_plan(self.config.corpus)

    @cached_property
    def stamp(self) -> SnapshotStamp:
        facts = dict(self.record.model)
        return SnapshotStamp(
            run_id=self.run_id,
            model=facts.pop("name"),
            vector=VectorType(facts.pop("vector")),
            long_text=LongText(facts.pop("long_text")),
            int8_scale=self.record.int8_scale,
            **facts,
        )

    @property
    def schema(self) -> OutputSchema:
        return output_schema(self.plan, self.stamp, self.config.output.partition_by)

    def files(self) -> list[OutputFile]:
        return [file for receipt in self.receipts.values() for file in receipt.files]

    def embedder(self, *, query: bool = False, long_text: LongText | None = None) -> Embedder:
        """The snapshot's model, loaded here. Raises: UsageError: it is not at hand, or another one is."""
        from workers.replica.embedder import Embedder  # torch

        return Embedder(self.config.model, self.stamp, query=query, long_text=long_text)


def open_store(target: str) -> tuple[Store, RunConfig | None]:
    """The output a target names. Raises: UsageError."""
    if Path(target).suffix in (".yaml", ".yml") and "://" not in target:
        config = load_config(target)
        return Store(config.output.uri, config.output.storage_options), config
    return Store(target, {}), None


def open_published(target: str) -> Published:
    """Raises: UsageError: nothing is published there. RunAborted: its run's documents are damaged."""
    store, given = open_store(target)
    current = read_current(store)
    if current is None:
        raise UsageError(f"{redact(store.uri)}: nothing is published there; run `reembed embed` first, or correct the uri")
    record = read_run(store, current.run_id)
    if record is None:
        raise UsageError(
            f"{store.uri_of(RunPaths(current.run_id).record)}: missing; the folder of a published run must stay"
        )
    raw = {name: dict(section) for name, section in record.config.items()}
    if given is not None:
        for name, section in (("corpus", given.corpus), ("model", given.model), ("output", given.output)):
            raw[name]["storage_options"] = section.storage_options
        raw["output"]["uri"], raw["model"]["name"] = given.output.uri, given.model.name
        raw["model"]["revision"] = given.model.revision
    return Published(store, current, record, parse_config(raw, store.uri_of(RunPaths(current.run_id).record)))

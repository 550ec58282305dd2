"""The snapshot that a job works on, opened once: the same for all passes, whatever is published meanwhile.

Its shards are those of the run that made it: one for each receipt, with the receipt's parts as slices. So a derived part has
the name of its source part, and a shard whose parts have the digests that they had last night needs no new work. A job may
divide it otherwise (JobKind.divide).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from jobs.publish.open_snapshot import open_published
from jobs.state.stored_run import StoredRun
from workers.config import StorageOptions
from workers.errors import UsageError
from workers.records.shard import ObjectSlice, Receipt, Shard
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.part_file import vector_bytes
from workers.table.schema import EMBEDDING, OutputSchema


@dataclass(frozen=True)
class SourceSnapshot:
    """A published snapshot of vectors."""

    run: StoredRun
    storage_options: StorageOptions
    column: str = EMBEDDING  # of the vectors
    division: tuple[Shard, ...] | None = None  # None: a shard for each receipt

    @classmethod
    def open(cls, uri: str, storage_options: StorageOptions, setting: str, column: str | None = None) -> SourceSnapshot:
        """`setting`: its name in errors. `column`: of the vectors; None: `embedding`.

        Raises: UsageError: nothing is published there, it holds no vectors, or no such column of them.
        """
        run = open_published(uri, storage_options)
        if run.job not in (None, "reduce"):
            raise UsageError(
                f"{setting}={redact(uri)}: the output of `reembed {run.job}`, which holds no vectors; "
                "give the snapshot it was made from"
            )
        return cls.of_run(run, storage_options, setting, column)

    @classmethod
    def of_run(
        cls, run: StoredRun, storage_options: StorageOptions, setting: str, column: str | None = None
    ) -> SourceSnapshot:
        """As open(), for a run that holds vectors. Raises: UsageError: it has no such column of them."""
        if run.schema.sparse:
            raise UsageError(
                f"{setting}={redact(run.store.uri)}: holds sparse vectors (model.pooling: sparse), which are only searched; "
                "give a snapshot of dense ones"
            )
        if column is not None and column not in run.schema.vectors:
            there = ", ".join(run.schema.vectors)
            raise UsageError(f"{setting.rpartition('.')[0]}.column={column}: the snapshot's columns of vectors are {there}")
        return cls(run, storage_options, column or EMBEDDING)

    @property
    def store(self) -> Store:
        return self.run.store

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def uri(self) -> str:
        """Without credentials."""
        return redact(self.store.uri)

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self.schema.stamp.dim)

    @cached_property
    def schema(self) -> OutputSchema:
        """As readers of `column` see it."""
        return self.run.schema.view(self.column)

    @cached_property
    def receipts(self) -> Mapping[int, Receipt]:
        """Those with rows, by shard."""
        return {number: receipt for number, receipt in self.run.receipts.items() if receipt.files}

    def divided(self, shards: Sequence[Shard]) -> SourceSnapshot:
        """The same snapshot in these shards."""
        return replace(self, division=tuple(shards))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """In order of numbers."""
        if self.division is not None:
            return self.division
        return tuple(
            Shard(
                number,
                tuple(ObjectSlice(file.path, file.bytes, file.sha256, 0, file.bytes, file.rows) for file in receipt.files),
                sum(file.bytes for file in receipt.files),
            )
            for number, receipt in self.receipts.items()
        )

    @cached_property
    def rows(self) -> int:
        """Rows in all; with pooling=tokens there are more vectors."""
        return sum(receipt.rows for receipt in self.receipts.values())

    def vectors_in(self, shards: Sequence[Shard]) -> int:
        """Vectors of these shards; of token vectors an estimate, by the bytes of their parts."""
        if not self.schema.lists:
            return sum(shard.rows or 0 for shard in shards)
        return sum(shard.text_bytes for shard in shards) // vector_bytes(self.schema)

    @cached_property
    def bytes(self) -> int:
        """Of all parts, on the store."""
        return sum(file.bytes for receipt in self.receipts.values() for file in receipt.files)

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """Number of each shard's first row in the whole snapshot."""
        ends = np.cumsum([0, *(shard.rows or 0 for shard in self.shards)])
        return tuple(int(end) for end in ends[:-1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the digests of all parts: equal for equal vectors."""
        sums = hashlib.sha256()
        for receipt in self.receipts.values():
            for file in receipt.files:
                sums.update(f"{receipt.shard} {file.sha256}\n".encode())
        return sums.hexdigest()

    def require_columns(self, names: Sequence[str], setting: str) -> None:
        """Raises: UsageError: a column that the snapshot has not got."""
        for name in names:
            if name not in self.schema.plain.names:
                kept = ", ".join(self.run.plan.keep.names) or "none"
                raise UsageError(
                    f"{setting}: {name} is not in the snapshot (kept columns: {kept}); embed with corpus.keep=[{name}]"
                )

    def column_type(self, name: str) -> pa.DataType:
        return self.schema.rows.field(name).type

    def require_rows_of_text(self, job: str) -> None:
        """Raises: UsageError: a snapshot of token vectors, for a job that needs one vector a text."""
        if self.schema.lists:
            raise UsageError(
                f"{job}: the snapshot {self.uri} holds a vector for each token (model.pooling: tokens); this job needs one "
                "vector a text: embed with another pooling"
            )

"""Writes the parts of one shard: documents and the vectors they refer to. A part's name follows from the shard alone.

    append, quarantine   documents in source order, vectors of new texts -> local spill files; nothing on the store yet
    totals               counts over all documents, for the receipt
    finish               group by partition, cut into parts, assemble documents with their vectors -> local files
                         -> stage, then put or adopt each (commit.py) -> Receipt
    abandon              remove everything local

Where a part ends depends on the number of its vectors alone, so a re-run cuts the same parts. Inside a part rows keep source
order, a document's rows side by side. Memory holds one row group while encoding, at most IN_FLIGHT_BYTES of files (of all
shards) while sending; the local disk holds the shard twice. Knows nothing of how vectors are made or shared.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from workers.config import VectorEncoding
from workers.dedup.vector_cache import CachedRows, VectorCache
from workers.host.spill_file import SpillFile, local_disk
from workers.records.documents import QuarantinedRow, RowsDigest
from workers.records.shard import Assignment, OutputFile, Receipt
from workers.storage.store import Store
from workers.table.part_file import PartName, row_group_rows, vector_bytes, write_part
from workers.table.paths import RunPaths
from workers.table.quarantine_file import QUARANTINE_SCHEMA, write_quarantine
from workers.table.schema import CHUNK, ID, PREFIX, TEXT_HASH, OutputSchema, part_footer
from workers.writing.assembly import DocumentTotals, OutputRows, assemble, cache_ranges, count_documents, output_rows
from workers.writing.commit import LocalFile, described, put_shard
from workers.writing.grouping import cut, cut_evenly, partition_groups

PART_BYTES = 128 << 20  # of vectors: a few row groups, one comfortable download
Draft = Callable[[tuple[OutputFile, ...], OutputFile | None], Receipt]


class ShardWriter:
    """One attempt's output. Not thread-safe; `finish` or `abandon` ends it and removes its temporary files."""

    def __init__(
        self,
        store: Store,
        assignment: Assignment,
        schema: OutputSchema,
        spill_dir: Path,
        *,
        vector_encoding: VectorEncoding = VectorEncoding.AUTO,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._store = store
        self._assignment = assignment
        self._schema = schema
        self._encoding = vector_encoding
        self._vectors_per_part = max(1, part_bytes // vector_bytes(schema))
        with local_disk(spill_dir / "x"):
            spill_dir.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f"shard-{assignment.shard.name}-", dir=spill_dir))
        self._documents = SpillFile(self._folder / "documents.arrow", schema.documents)
        self.cache = VectorCache(self._folder, schema)
        self._quarantined = SpillFile(self._folder / "quarantine.arrow", QUARANTINE_SCHEMA)

    def append(self, documents: pa.Table, vectors: pa.Table) -> None:
        """One window: documents in source order, vectors of its new texts in the order of their cache rows.

        Columns as in OutputSchema.documents and OutputSchema.cache. Raises: TransientError: local disk full.
        """
        self.cache.append(vectors)
        self._documents.append(documents)

    def quarantine(self, rows: Sequence[QuarantinedRow]) -> None:
        """Rows that are not embedded. Raises: TransientError: local disk full."""
        number = self._assignment.shard.number
        cells = [
            {
                "id": _clean(row.id),
                "object": _clean(row.object),
                "row": row.row,
                "rows": row.rows,
                "reason": _clean(row.reason),
                "shard": number,
            }
            for row in rows
        ]
        self._quarantined.append(pa.Table.from_pylist(cells, schema=QUARANTINE_SCHEMA))

    def totals(self) -> DocumentTotals:
        """Counts over the documents appended so far. Ends appending."""
        with self._documents.batches() as documents, self.cache.open() as cache:
            return count_documents(documents, cache, self._release)

    def finish(self, draft: Draft) -> Receipt:
        """Write everything. Afterwards the store holds exactly the files that the returned receipt lists.

        `draft(files, quarantine)` makes the receipt for a list of files; it may be called twice, and the second list differs
        from the first only in size and SHA-256, where parts of an earlier attempt were adopted.

        Raises:
            PartConflict: a later attempt has written this shard. UsageError, TransientError: store or local disk.
        """
        try:
            parts = list(self._encode_parts())
            files = parts + self._encode_quarantine()
            staged = RunPaths(self._schema.stamp.run_id).staged(self._assignment.shard.number)
            fingerprint = self._schema.fingerprint()
            return put_shard(self._store, staged, fingerprint, files, lambda outputs: _receipt(draft, outputs, len(parts)))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove the temporary files; harmless when repeated."""
        try:
            self._documents.close()
            self.cache.close()
            self._quarantined.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _encode_parts(self) -> Iterator[LocalFile]:
        with self._documents.batches() as documents, self.cache.open() as cache:
            ranges = cache_ranges(documents)
            self._release()
            vectors_R = cache.vectors_per_row() if self._schema.lists and documents else None
            for number, group in enumerate(partition_groups(documents, self._schema.partition_by)):
                self._release()  # the pages that were read to find the group
                rows = output_rows(ranges, group.rows)
                limit = self._vectors_per_part
                pieces = cut_evenly(len(rows), limit) if vectors_R is None else cut(vectors_R[rows.cached], limit)
                for piece, run in enumerate(pieces):
                    name = PartName(self._assignment.shard.number, piece if len(pieces) > 1 else None)
                    path = name.path(self._schema.stamp.run_id, group.folder)
                    chosen = rows[run]
                    vectors = len(chosen) if vectors_R is None else int(vectors_R[chosen.cached].sum())
                    tables = self._row_groups(documents, cache, chosen, row_group_rows(self._schema, len(chosen), vectors))
                    yield self._encode(self._folder / f"{number}-{piece}.part", path, tables, group.values)

    def _row_groups(
        self, documents: Sequence[pa.RecordBatch], cache: CachedRows, rows: OutputRows, size: int
    ) -> Iterator[pa.Table]:
        for run in cut_evenly(len(rows), size):
            yield assemble(documents, cache, rows[run], self._schema.part)
            self._release()

    def _release(self) -> None:
        self._documents.release()
        self.cache.release()

    def _encode(self, local: Path, path: str, groups: Iterable[pa.Table], values: dict[str, str | None]) -> LocalFile:
        schema, digest, rows = self._schema, RowsDigest(), 0

        def counted() -> Iterator[pa.Table]:
            nonlocal rows
            for group in groups:
                _add_rows(digest, group, chunked=schema.chunked)
                rows += group.num_rows
                yield group

        def footer() -> dict[str, str]:
            return part_footer(schema.stamp, self._assignment.shard.number, self._assignment.epoch, str(digest), values)

        with local_disk(local):
            write_part(local, counted(), schema, footer, self._encoding)
        return described(local, path, rows, str(digest), footer())

    def _encode_quarantine(self) -> list[LocalFile]:
        """The quarantine file, or nothing."""
        shard, stamp = self._assignment.shard, self._schema.stamp
        with self._quarantined.batches() as batches:
            if not batches:
                return []
            table, digest = pa.Table.from_batches(batches), RowsDigest()
            for row in table.to_pylist():
                digest.add(*(row[name] for name in QUARANTINE_SCHEMA.names))
            footer = {
                PREFIX + "run_id": stamp.run_id,
                PREFIX + "shard": str(shard.number),
                PREFIX + "epoch": str(self._assignment.epoch),
                PREFIX + "rows_digest": str(digest),
            }
            local = self._folder / "quarantine"
            with local_disk(local):
                write_quarantine(local, table, footer)
        path = RunPaths(stamp.run_id).quarantined_rows(shard.number)
        return [described(local, path, self._quarantined.rows, str(digest), footer)]


def _receipt(draft: Draft, files: Sequence[OutputFile], parts: int) -> Receipt:
    return draft(tuple(files[:parts]), files[parts] if len(files) > parts else None)


def _add_rows(digest: RowsDigest, table: pa.Table, *, chunked: bool) -> None:
    """(id, text_hash, chunk or 0) of each row."""
    for batch in table.select([ID, TEXT_HASH, *([CHUNK] if chunked else [])]).to_batches():
        digest.add_rows(batch.num_rows, [*batch.columns, *([] if chunked else [0])])


def _clean(text: str | None) -> str | None:
    """Lone surrogates (from undecodable bytes) have no UTF-8 form; they become `?`."""
    return None if text is None else text.encode("utf-8", "replace").decode()

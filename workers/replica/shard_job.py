"""The pipeline's job for one attempt at a shard: the source of its windows, and the sink of its encoded windows.

    items()    reading thread: fills the cache with vectors of earlier parts, then yields the shard's windows
    append()   writing thread: assembles rows, spills them to the local disk, counts them
    finish()   a thread of its own, while the next shard is embedded: writes parts and quarantine file, returns the receipt
    abandon()  likewise: removes temporary files; nothing has been published

Every row is counted. The receipt consists of these counts, which are checked against each other before anything is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.config import VectorEncoding
from workers.dedup.deduplicator import DedupedWindow, Deduplicator
from workers.dedup.prefill import prefill_cache
from workers.dedup.vector_cache import probe_cosine
from workers.errors import ReembedError
from workers.host.memory import trim
from workers.reading.reader import read_windows
from workers.reading.source_rows import EMPTY
from workers.records.documents import DocumentWindow, ReadPlan, RowsDigest
from workers.records.shard import Assignment, OutputFile, Receipt
from workers.records.tokens import EncodedTexts, TokenizedTexts
from workers.replica.poison import check_for_poison
from workers.storage.store import Store
from workers.table.left_out import load_left_out, without
from workers.table.paths import RunPaths
from workers.table.schema import OutputSchema
from workers.writing.rows import document_rows, text_rows
from workers.writing.writer import ShardWriter

LARGE = 1 << 18  # documents of a shard, from which on it is worth giving freed memory back (host/memory.py)
ReadWindow = tuple[DocumentWindow, Deduplicator]
EncodedWindow = tuple[DedupedWindow, TokenizedTexts, EncodedTexts]


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What the jobs of all shards of a replica share."""

    plan: ReadPlan
    schema: OutputSchema
    store: Store  # of the output
    spill_folder: Path  # on the local disk
    replica: str  # its name, for receipts
    token_strings: Callable[[Sequence[int]], list[str]]  # ids -> strings, for pooling=tokens
    vector_encoding: VectorEncoding = VectorEncoding.AUTO


class ShardJob:
    """One attempt at a shard; a workers.replica.pipeline.Job."""

    def __init__(self, assignment: Assignment, context: ShardContext) -> None:
        self._assignment, self._replica, self._token_strings = assignment, context.replica, context.token_strings
        self._plan, self._schema, self._store = context.plan, context.schema, context.store
        self._writer = ShardWriter(
            context.store, assignment, context.schema, context.spill_folder, vector_encoding=context.vector_encoding
        )
        self._deduplicator = Deduplicator()
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._lost: list[str] = []
        self._seen: frozenset[str] = frozenset()  # kept columns
        self._digest = RowsDigest()
        self._bad: dict[int, str] = {}  # first cache row of a text without a usable vector -> reason
        self._probe_cosine: float | None = None

    def items(self) -> Iterator[ReadWindow]:
        """The shard's windows, with the deduplicator that all of them share.

        Raises:
            ObjectError: an object cannot be read. UsageError, TransientError: the store refused or did not answer.
        """
        shard, exclude = self._assignment.shard, dict(self._assignment.exclude)
        if self._assignment.suspect:
            check_for_poison(shard, self._plan, exclude)
        prefill_cache(self._store, shard.earlier, self._schema, self._deduplicator, self._writer.cache)
        left_out = load_left_out(self._store, RunPaths(self._schema.stamp.run_id).left_out, self._plan.exclusion)
        for window in without(read_windows(shard, self._plan, exclude), left_out):
            yield window, self._deduplicator

    def append(self, encoded: EncodedWindow) -> None:
        """Take one encoded window. Raises: TransientError: the local disk is full."""
        deduped, tokens, vectors = encoded
        texts = text_rows(tokens, vectors, len(deduped.new), self._schema, self._token_strings)
        self._bad |= {int(deduped.row_D[deduped.new[text]]): reason for text, reason in texts.bad.items()}
        rows = document_rows(deduped, self._bad, self._schema)
        self._writer.append(rows.table, texts.table)
        self._writer.quarantine(rows.quarantined)
        self._lost += [entry.object for entry in rows.quarantined if entry.rows is None]
        self._seen |= deduped.window.seen
        self._counts.update(
            rows_read=deduped.window.rows_read,
            documents=rows.table.num_rows,
            rows=rows.rows,
            reused=rows.reused_rows,
            repeated=rows.repeated_rows,
            quarantined=sum(entry.rows or 0 for entry in rows.quarantined),
            excluded=deduped.window.excluded_rows,
            empty=sum(entry.reason.startswith(EMPTY) for entry in deduped.window.quarantined),
            tokens=int(tokens.num_tokens.sum()),
            padded_tokens=vectors.padded_tokens,
            probed=len(deduped.probes),
            overflowed=vectors.overflowed,
        )
        if len(deduped.probes):
            with self._writer.cache.open_prefilled() as stored:
                self._probe_cosine = round(probe_cosine(deduped, tokens, vectors, stored, self._schema), 6)
        self._digest.merge(rows.source_digest)

    def finish(self, stage_seconds: Mapping[str, float]) -> Receipt:
        """Write the shard's files. `stage_seconds`: seconds by stage, for the receipt.

        Raises:
            ReembedError: the counts of rows contradict each other. UsageError, TransientError: the store refused or did not
            answer. PartConflict: see workers.writing.commit.
        """
        counts = self._counts
        if counts["rows_read"] != counts["documents"] + counts["quarantined"] + counts["excluded"]:
            raise ReembedError(
                f"shard {self._assignment.shard.number}: {counts['rows_read']} rows read, {counts['documents']} embedded, "
                f"{counts['quarantined']} quarantined, {counts['excluded']} excluded; this is a defect of reembed, "
                "nothing was written"
            )
        self._deduplicator = Deduplicator()  # its index of texts is not needed while parts are written and sent
        if counts["documents"] > LARGE:
            trim()
        totals = self._writer.totals()

        def draft(files: tuple[OutputFile, ...], quarantine: OutputFile | None) -> Receipt:
            return Receipt(
                shard=self._assignment.shard.number,
                epoch=self._assignment.epoch,
                rows_read=counts["rows_read"],
                documents=counts["documents"],
                rows=counts["rows"],
                quarantined_rows=counts["quarantined"],
                lost_objects=tuple(self._lost),
                tokens=counts["tokens"],
                padded_tokens=counts["padded_tokens"],
                truncated=totals.truncated,
                duplicate_ids=counts["documents"] - totals.distinct_ids,
                files=files,
                quarantine=quarantine,
                stage_seconds={name: round(seconds, 4) for name, seconds in stage_seconds.items()},
                seconds=round(time.monotonic() - self._began, 4),
                replica=self._replica,
                source_digest=str(self._digest),
                clipped=totals.clipped,
                excluded=tuple(uri for uri, _ in self._assignment.exclude),
                reused_rows=counts["reused"],
                repeated_rows=counts["repeated"],
                empty=counts["empty"],
                token_histogram=totals.token_histogram,
                ended=round(time.time(), 3),
                probed=counts["probed"],
                overflowed=counts["overflowed"],
                probe_cosine=self._probe_cosine,
                absent=tuple(name for name in self._plan.keep.names if name not in self._seen),
                excluded_rows=counts["excluded"],
            )

        return self._writer.finish(draft)

    def abandon(self) -> None:
        """Remove the shard's temporary files."""
        self._writer.abandon()

"""One shard on its way through the pipeline: where its windows come from, and what becomes of them.

    items()    reading thread: the shard's windows
    append()   writing thread: rows assembled and spooled, counts to the receipt
    finish()   writing thread: parts, quarantine file, the receipt
    abandon()  writing thread: nothing was published, temporary files go

It counts every row it meets; the receipt's figures are these counts, checked against each other before anything is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from workers.documents import DocumentWindow, ReadPlan, RowsDigest
from workers.errors import ReembedError
from workers.output_schema import OutputSchema
from workers.reader import read_windows
from workers.rows import FinishedWindow
from workers.shard import Assignment, OutputFile, Receipt
from workers.storage import Store
from workers.token_records import EncodedTexts, TokenizedTexts
from workers.writer import ShardWriter

EncodedWindow = tuple[DocumentWindow, TokenizedTexts, EncodedTexts]


class ShardJob:
    """See the module; satisfies workers.pipeline.Job."""

    def __init__(
        self,
        assignment: Assignment,
        plan: ReadPlan,
        schema: OutputSchema,
        store: Store,
        spool: Path,
        replica: str,
        assemble: Callable[[EncodedWindow], FinishedWindow],
    ) -> None:
        self._assignment, self._plan, self._replica, self._assemble = assignment, plan, replica, assemble
        self._writer = ShardWriter(store, assignment, schema, spool)
        self._began = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._lost: list[str] = []
        self._digest = RowsDigest()

    def items(self) -> Iterator[DocumentWindow]:
        yield from read_windows(self._assignment.shard, self._plan, dict(self._assignment.exclude))

    def append(self, encoded: EncodedWindow) -> None:
        item = self._assemble(encoded)
        self._writer.append(item.table)
        self._writer.quarantine(item.quarantined)
        self._lost += [entry.object for entry in item.quarantined if entry.rows is None]
        self._counts.update(
            rows_read=item.rows_read,
            documents=item.documents,
            rows=item.table.num_rows,
            quarantined=sum(entry.rows or 0 for entry in item.quarantined),
            tokens=item.tokens,
            padded_tokens=item.padded_tokens,
            truncated=item.truncated,
            clipped=item.clipped,
        )
        self._digest.merge(item.source_digest)

    def finish(self, stage_seconds: Mapping[str, float]) -> Receipt:
        counts = self._counts
        if counts["rows_read"] != counts["documents"] + counts["quarantined"]:
            raise ReembedError(
                f"shard {self._assignment.shard.number}: {counts['rows_read']} rows read, {counts['documents']} embedded, "
                f"{counts['quarantined']} quarantined; this is a defect of reembed, nothing was written"
            )

        distinct = self._writer.distinct_ids()

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
                truncated=counts["truncated"],
                duplicate_ids=counts["documents"] - distinct,
                files=files,
                quarantine=quarantine,
                stage_seconds={name: round(seconds, 4) for name, seconds in stage_seconds.items()},
                seconds=round(time.monotonic() - self._began, 4),
                replica=self._replica,
                source_digest=str(self._digest),
                clipped=counts["clipped"],
                excluded=tuple(uri for uri, _ in self._assignment.exclude),
                ended=round(time.time(), 3),
            )

        return self._writer.finish(draft)

    def abandon(self) -> None:
        self._writer.abandon()

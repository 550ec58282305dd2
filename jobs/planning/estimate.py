"""Estimates the rows and tokens to embed from a small sample of the shards, and speed and size from earlier runs.

    sample_shards   samples documents of a few shards: bytes, tokens, rows, and how many an earlier snapshot holds
    to_embed        scales the sample to all shards
    measured        figures of earlier runs on this output: tokens a second of one replica, bytes a row

Documents are drawn from the beginning, the middle and the end of a shard if the format allows it, because new or changed
documents may be anywhere. Carried shards are not opened. Nothing is written.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, assert_never

from jobs.planning.planned_run import PlannedRun
from jobs.planning.run import Run, RunOutline
from jobs.state.records import list_runs, read_summary
from workers.config import BY_TOKEN, ROW_A_CHUNK
from workers.host.isolated_process import IsolatedProcess
from workers.inspection.text_sample import HEAD_BYTES, draw
from workers.reading.formats.registry import format_of, traits_of
from workers.reading.formats.traits import Split
from workers.records.shard import ObjectSlice, Shard
from workers.storage.store import Store
from workers.table.part_file import PartDamaged, open_part, vector_bytes
from workers.table.schema import TEXT_HASH, output_schema
from workers.table.vector_identity import LATER_STAMP

SAMPLED_SHARDS = 8
SAMPLED_DOCUMENTS = 256  # of each sampled shard
HASHES_AT_ONCE = 1 << 16
SPOTS = 3  # positions of a shard that are sampled
ROW_OVERHEAD_BYTES = 48  # id, hash and counts of a row, compressed: measured on the Parquet files of short ids
USUAL_ENTRIES = 256  # of a sparse vector, where nothing bounds them
log = logging.getLogger("reembed")


@dataclass(slots=True)
class Sample:
    """Documents drawn, their source bytes, tokens and output rows; of the `compared` ones `found` already have a vector."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    rows: int = 0
    compared: int = 0
    found: int = 0

    def scaled(self, part: int, text_bytes: float) -> int:
        """`part` of the sample, scaled to that many bytes of text."""
        return round(part / self.bytes * text_bytes) if self.bytes else 0


@dataclass(frozen=True, slots=True)
class ToEmbed:
    rows: int
    text_bytes: int
    tokens: int


def sample_shards(run: RunOutline, shards: Sequence[Shard], seconds: float = math.inf) -> Sample:
    """Draw from a few of these shards, with and without earlier parts. After `seconds` no further shard is sampled.

    Raises: UsageError, TransientError.
    """
    model, recipe = run.request.model.folder, run.request.recipe
    sample, until = Sample(), math.inf
    with IsolatedProcess() as isolated:
        for shard in _some([item for item in shards if not item.earlier]) + _some([item for item in shards if item.earlier]):
            if time.monotonic() > until:
                break
            known = _hashes(run.store, shard) if shard.earlier else set()
            for spot in _spots(shard, run):
                drawn = draw(spot, run.plan, SAMPLED_DOCUMENTS // SPOTS, model, recipe, isolated)
                if not drawn.hashes:
                    continue
                sample.documents += len(drawn.hashes)
                sample.bytes += drawn.bytes
                sample.tokens += drawn.tokens
                sample.rows += drawn.rows
                if shard.earlier:
                    sample.compared += len(drawn.hashes)
                    sample.found += sum(text in known for text in drawn.hashes)
                until = min(until, time.monotonic() + seconds)  # counted from the first texts, after the process has started
    return sample


def to_embed(shards: Sequence[Shard], sample: Sample, kept_share: float = 1.0) -> ToEmbed:
    """Rows, text and tokens of these shards, without the share that the sample found in earlier parts.

    `kept_share`: of the rows, those that corpus.exclude does not leave out.
    """
    left = 1 - sample.found / sample.compared if sample.compared else 1.0
    text_bytes = sum(shard.text_bytes * (left if shard.earlier else 1.0) for shard in shards)
    rows = sum(rows_of(shard, sample) * (left if shard.earlier else 1.0) for shard in shards) * kept_share
    text_bytes *= kept_share
    return ToEmbed(round(rows), round(text_bytes), sample.scaled(sample.tokens, text_bytes))


def rows_of(shard: Shard, sample: Sample) -> int:
    """From the footers if they hold it, else from the sample."""
    return shard.rows if shard.rows is not None else sample.scaled(sample.documents, shard.text_bytes)


def measured(store: Store, stored: Mapping[str, Any] | None = None) -> tuple[float | None, float | None]:
    """Tokens a second of one replica, and output bytes a row, each from the newest run whose summary holds it.

    `stored`: facts of the model in which a run must agree for its bytes a row to count; None: any run's do.
    """
    rate = row_bytes = None
    for run_id in reversed(list_runs(store)):
        summary = read_summary(store, run_id) or {}
        seconds, rows, tokens = summary.get("replica_hours", 0) * 3600, summary.get("rows", 0), summary.get("tokens", 0)
        rate = rate or (tokens / seconds if seconds and tokens else None)
        model = {**LATER_STAMP, **summary.get("model", {})}
        alike = all(model.get(name, value) == value for name, value in (stored or {}).items())
        row_bytes = row_bytes or (summary["output_bytes"] / rows if rows and alike else None)
        if rate and row_bytes:
            break
    return rate, row_bytes


def plain_row_bytes(run: Run | PlannedRun, sample: Sample) -> float:
    """Estimated bytes of an output row, before any run has measured it."""
    schema = output_schema(run.plan, run.stamp, run.config.output.partition_by)
    recipe = run.request.recipe
    per_document = 1.0
    if sample.documents:
        if recipe.pooling[0] in BY_TOKEN:
            per_document = sample.tokens / sample.documents
        elif recipe.long_text in ROW_A_CHUNK:
            per_document = sample.rows / sample.documents
    if recipe.sparse is not None:
        per_document *= recipe.sparse.top or USUAL_ENTRIES
    return per_document * vector_bytes(schema) + ROW_OVERHEAD_BYTES


def _some(shards: Sequence[Shard]) -> list[Shard]:
    step = max(1, len(shards) // SAMPLED_SHARDS)
    return list(islice(shards[::step], SAMPLED_SHARDS))


def _spots(shard: Shard, run: RunOutline) -> Iterator[Shard]:
    """Up to SPOTS small shards within this one: slices spread over it, or positions within its only slice."""
    pieces = list(shard.slices)
    if len(pieces) == 1:
        pieces = _places(pieces[0], run)
    step = max(1, (len(pieces) - 1) // (SPOTS - 1))
    for piece in pieces[::step][:SPOTS]:
        # Row numbers do not matter here, and the texts of rows that a table has deleted are as good a sample
        yield replace(shard, slices=(replace(piece, rows=None, first_row=0, deleted=""),))


def _places(piece: ObjectSlice, run: RunOutline) -> list[ObjectSlice]:
    """Row groups or ranges of records, if the format can be read from any position; else the whole slice."""
    corpus = run.config.corpus
    source_format, compression = format_of(piece.uri, corpus.source_format)
    traits = traits_of(source_format)
    length = piece.stop - piece.start
    match traits.split(corpus):
        case Split.GROUPS if piece.rows is not None and length > 1:
            middle = piece.start + length // 2
            return [replace(piece, start=at, stop=at + 1) for at in sorted({piece.start, middle, piece.stop - 1})]
        case Split.RECORDS if traits.enter_anywhere and compression is None and length > SPOTS * HEAD_BYTES:
            starts = (piece.start, piece.start + length // 2, piece.stop - HEAD_BYTES)
            return [replace(piece, start=start, stop=start + HEAD_BYTES) for start in starts]
        case Split.GROUPS | Split.RECORDS | Split.NONE:
            return [piece]
        case other:
            assert_never(other)


def _hashes(store: Store, shard: Shard) -> set[bytes]:
    """Text hashes of the shard's earlier parts, reading that column alone; a missing or damaged part has none."""
    hashes: set[bytes] = set()
    for path in shard.earlier:
        try:
            with open_part(store, path) as part:
                for batch in part.batches(HASHES_AT_ONCE, [TEXT_HASH]):
                    hashes.update(batch.column(TEXT_HASH).to_pylist())
        except FileNotFoundError:
            continue
        except PartDamaged as error:
            log.warning("%s: not readable (%s); estimated without it", error.object_uri, error.detail)
    return hashes

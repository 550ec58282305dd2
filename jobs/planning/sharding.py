"""Splits the objects of a corpus into ordered Shards. A begun run loads its manifest and never splits again.

1. target   bytes of text of one shard, from the whole corpus, including reused objects
2. pieces   large objects by row groups or byte ranges; of a partly carried object only the slices left to embed
3. group    small neighbours share a shard, in URI order; a larger object has a shard of its own

Deterministic: the same corpus, shard_bytes and base give the same shards for any number of replicas.
jobs/planning/matching.py decides which slices are reused, and which parts may hold a text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, assert_never

from jobs.corpus.discovery import COMPRESSED_RATIO, Corpus, text_bytes_of
from jobs.corpus.listing import SourceObject
from jobs.planning.matching import Reuse, without_deleted
from workers.config import CorpusConfig
from workers.errors import RunAborted, TransientError
from workers.inspection.record_offsets import RecordOffset, record_offsets
from workers.reading.formats.traits import Split
from workers.records.shard import ObjectSlice, Shard

MIN_SHARD_BYTES = 1 << 20  # below this the fixed cost of a shard (opening, receipt, part file) outweighs its work
WANTED_SHARDS = 64  # a small corpus gets at least this many shards, so that as many replicas get work
ALONE_SHARE = 4  # an object of more than target / 4 text is not grouped: if it changed, its neighbours could not be carried
OBJECT_COST_BYTES = 4096  # opening an object costs as much as reading this much text; it bounds the objects of a shard
SCAN_THREADS = 8  # objects scanned for record borders at once, one 8 MiB block each
log = logging.getLogger("reembed")


class _Piece(NamedTuple):
    slice: ObjectSlice
    text_bytes: int


def target_bytes(text_bytes: int, shard_bytes: int) -> int:
    """Bytes of text of one shard: a 64th of the corpus, but at least 1 MiB and at most `shard_bytes`."""
    return min(max(text_bytes // WANTED_SHARDS, MIN_SHARD_BYTES), shard_bytes)


def cut(corpus: Corpus, shard_bytes: int, *, id_given: bool, reuse: Reuse | None = None) -> list[Shard]:
    """Split a corpus into shards of at most about `shard_bytes` of text; one row group or compressed object may be larger.

    Shards that `reuse` carries over come first, unchanged; objects that it does not cover are split.
    `id_given=False`: ids are row numbers, so large objects that are split by byte ranges are scanned once for the row number
    at each split point. Formats whose record boundaries only a scan can find are always scanned. Empty objects are in the
    corpus and in no shard.

    Raises:
        UsageError, RunAborted: the store refused or failed during the scan.
    """
    target = target_bytes(corpus.text_bytes, shard_bytes)
    fresh = [source for source in corpus.objects if reuse is None or source.info.uri not in reuse.given]
    offsets = _scan(fresh, corpus.read_plan.corpus, target, id_given=id_given)
    least = min(OBJECT_COST_BYTES, max(1, target // WANTED_SHARDS))
    shards = [replace(shard, number=number) for number, shard in enumerate(reuse.carried)] if reuse else []
    group: list[_Piece] = []
    weight = 0
    before = ""  # URI of the last piece's object, if it must have shards of its own
    for source in corpus.objects:
        uri = source.info.uri
        alone = uri if text_bytes_of(source) * ALONE_SHARE > target else ""
        given = reuse.given.get(uri) if reuse else None
        pieces = (
            _pieces(source, target, offsets, corpus.read_plan.corpus)
            if given is None
            else (_Piece(piece, _slice_text_bytes(source, piece)) for piece in given)
        )
        for piece in pieces:
            cost = max(piece.text_bytes, least)
            if group and (weight + cost > target or alone != before):
                shards.append(_shard(len(shards), group, reuse))
                group, weight = [], 0
            group.append(piece)
            weight += cost
            before = alone
    if group:
        shards.append(_shard(len(shards), group, reuse))
    return shards


def _shard(number: int, group: Sequence[_Piece], reuse: Reuse | None) -> Shard:
    slices = tuple(piece.slice for piece in group)
    earlier = dict.fromkeys(path for piece in slices for path in reuse.earlier(piece)) if reuse else {}
    return Shard(number, slices, sum(piece.text_bytes for piece in group), earlier=tuple(earlier))


def _slice_text_bytes(source: SourceObject, piece: ObjectSlice) -> int:
    if source.row_groups is not None:
        return sum(group.text_bytes for group in source.row_groups[piece.start : piece.stop])
    return (piece.stop - piece.start) * (COMPRESSED_RATIO if source.compression else 1)


def _pieces(
    source: SourceObject, target: int, offsets: dict[str, list[RecordOffset]], config: CorpusConfig
) -> Iterator[_Piece]:
    """An object's slices in order, each of at most `target` text if it can be split."""
    info = source.info
    if source.rows == 0:
        return
    if source.row_groups is not None:
        yield from _row_group_pieces(source, target)
    elif not _splits(source, target, config):
        yield _Piece(_slice(source, 0, info.size, first_row=0), text_bytes_of(source))
    elif info.uri in offsets:
        ends = [*offsets[info.uri], RecordOffset(info.size, None)]
        for here, after in pairwise(ends):
            yield _Piece(_slice(source, here.offset, after.offset, first_row=here.row), after.offset - here.offset)
    else:
        for start, stop in pairwise(_even_offsets(info.size, target)):
            yield _Piece(_slice(source, start, stop, first_row=None if start else 0), stop - start)


def _row_group_pieces(source: SourceObject, target: int) -> Iterator[_Piece]:
    groups = source.row_groups or ()
    start, first_row, rows, text = 0, 0, 0, 0
    for number, group in enumerate(groups):
        if number > start and text + group.text_bytes > target:
            yield _Piece(_slice(source, start, number, rows=rows, first_row=first_row), text)
            start, first_row, rows, text = number, first_row + rows, 0, 0
        rows += group.rows
        text += group.text_bytes
    yield _Piece(_slice(source, start, len(groups), rows=rows, first_row=first_row), text)


def _slice(source: SourceObject, start: int, stop: int, *, first_row: int | None, rows: int | None = None) -> ObjectSlice:
    """`rows`: that lie in the object there; those that its table has deleted are none of the slice's."""
    info = source.info
    piece = ObjectSlice(info.uri, info.size, info.etag, start, stop, rows, first_row, source.partitions)
    return without_deleted(piece, source.deleted)


def _splits(source: SourceObject, target: int, config: CorpusConfig) -> bool:
    """Whether an object is split by byte ranges."""
    if source.problem is not None:  # its reader says so at the start
        return False
    match source.traits.split(config):
        case Split.RECORDS:
            return source.compression is None and source.info.size > target
        case Split.GROUPS | Split.NONE:
            return False
        case other:
            assert_never(other)


def _even_offsets(size: int, target: int) -> list[int]:
    count = -(-size // target)
    return [size * at // count for at in range(count + 1)]


def _scan(
    objects: Sequence[SourceObject], config: CorpusConfig, target: int, *, id_given: bool
) -> dict[str, list[RecordOffset]]:
    """Exact record offsets of the objects that need them; each is read once, in parallel."""
    large = [source for source in objects if _splits(source, target, config) and _needs_scan(source, id_given=id_given)]
    if not large:
        return {}
    log.info("scanning %d large objects for record borders", len(large))
    with ThreadPoolExecutor(max_workers=min(SCAN_THREADS, len(large))) as pool:
        scanned = pool.map(lambda source: _scan_one(source, target, config), large)
        try:
            return {source.info.uri: offsets for source, offsets in zip(large, scanned, strict=True)}
        except TransientError as error:
            raise RunAborted(f"corpus.uri: not readable: {error}; the same command tries again") from None


def _needs_scan(source: SourceObject, *, id_given: bool) -> bool:
    numbered = not (id_given and source.traits.has_id_column)
    return numbered or not source.traits.enter_anywhere


def _scan_one(source: SourceObject, target: int, config: CorpusConfig) -> list[RecordOffset]:
    whole = _slice(source, 0, source.info.size, first_row=0)
    return record_offsets(whole, source.traits, _even_offsets(source.info.size, target)[1:-1], config)

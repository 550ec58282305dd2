"""The cut: objects become ordered Shards, once. A run that has begun loads its manifest and never cuts again.

1. cut             target size; big objects split (row groups, byte ranges), small neighbours grouped, in URI order
2. save_manifest   one row a slice, Parquet; the first writer wins and everybody works from what stands
3. load_manifest   columns back into Shards; refuses a manifest made for another fingerprint

Deterministic: the same corpus and shard_bytes give the same shards, whatever the number of replicas.
"""

from __future__ import annotations

import gc
import io
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.corpus import Corpus, text_bytes_of
from jobs.listing import Partitions, SourceObject
from jobs.record_borders import Border, find_borders
from workers.config import CorpusConfig, SourceFormat
from workers.errors import RunAborted, TransientError, UsageError
from workers.shard import ObjectSlice, Shard
from workers.storage import Store

MIN_SHARD_BYTES = 1 << 20  # below this the fixed cost of a shard (opening, receipt, part file) outweighs its work
WANTED_SHARDS = 64  # a small corpus is cut at least this fine, so that as many replicas get work
OBJECT_COST_BYTES = 4096  # opening an object costs about what reading this much text does: bounds objects a shard
SCAN_THREADS = 8  # objects scanned for record borders at once, one 8 MiB block each
log = logging.getLogger("reembed")

_FINGERPRINT = b"reembed.fingerprint"
_FIELDS: dict[str, pa.DataType] = {
    "shard": pa.int32(),
    "shard_text_bytes": pa.int64(),  # of the whole shard, on each of its rows
    "uri": pa.string(),
    "size": pa.int64(),
    "etag": pa.string(),
    "start": pa.int64(),
    "stop": pa.int64(),
    "rows": pa.int64(),
    "first_row": pa.int64(),
    "partitions": pa.string(),  # JSON list of [key, value]
}
_SCHEMA = pa.schema(_FIELDS)


class _Piece(NamedTuple):
    slice: ObjectSlice
    text_bytes: int


def target_bytes(text_bytes: int, shard_bytes: int) -> int:
    """Text of one shard: the corpus in 64 shards, but not under 1 MiB and never over `shard_bytes`."""
    return min(max(text_bytes // WANTED_SHARDS, MIN_SHARD_BYTES), shard_bytes)


def cut(corpus: Corpus, shard_bytes: int, *, id_given: bool) -> list[Shard]:
    """Cut a corpus into shards of at most about `shard_bytes` of text; one row group or compressed object may be more.

    `id_given=False`: ids are row numbers, so big line objects are scanned once for exact borders. CSV always is: only a scan
    tells a quoted line break from a record's end. Empty objects are in the corpus, not in the cut.

    Raises:
        UsageError, RunAborted: the store refused or failed during the scan.
    """
    target = target_bytes(corpus.text_bytes, shard_bytes)
    borders = _scan(corpus, target, id_given=id_given)
    least = min(OBJECT_COST_BYTES, max(1, target // WANTED_SHARDS))
    shards: list[Shard] = []
    group: list[_Piece] = []
    weight = 0
    for source in corpus.objects:
        for piece in _pieces(source, target, borders, corpus.read_plan.corpus):
            cost = max(piece.text_bytes, least)
            if group and weight + cost > target:
                shards.append(_shard(len(shards), group))
                group, weight = [], 0
            group.append(piece)
            weight += cost
    if group:
        shards.append(_shard(len(shards), group))
    return shards


def _shard(number: int, group: Sequence[_Piece]) -> Shard:
    return Shard(number, tuple(piece.slice for piece in group), sum(piece.text_bytes for piece in group))


def _pieces(source: SourceObject, target: int, borders: dict[str, list[Border]], config: CorpusConfig) -> Iterator[_Piece]:
    """An object's slices, in order, none of more than `target` text where it can be split."""
    info = source.info
    if source.rows == 0:
        return
    if source.row_groups is not None:
        yield from _row_group_pieces(source, target)
    elif not _splits(source, target, config):
        yield _Piece(_slice(source, 0, info.size, first_row=0), text_bytes_of(source))
    elif info.uri in borders:
        ends = [*borders[info.uri], Border(info.size, None)]
        for here, after in pairwise(ends):
            yield _Piece(_slice(source, here.offset, after.offset, first_row=here.row), after.offset - here.offset)
    else:
        offsets = _even_offsets(info.size, target)
        for start, stop in pairwise(offsets):
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
    info = source.info
    return ObjectSlice(info.uri, info.size, info.etag, start, stop, rows, first_row, source.partitions)


def _splits(source: SourceObject, target: int, config: CorpusConfig) -> bool:
    """Whether a line object is cut by byte ranges: big, not compressed, and not one document as a whole."""
    lines = source.format is not SourceFormat.PARQUET and source.compression is None
    whole_file = source.format is SourceFormat.TEXT and config.text_unit == "file"
    return lines and not whole_file and source.info.size > target


def _even_offsets(size: int, target: int) -> list[int]:
    count = -(-size // target)
    return [size * at // count for at in range(count + 1)]


def _scan(corpus: Corpus, target: int, *, id_given: bool) -> dict[str, list[Border]]:
    """Exact record borders of the objects whose splits need them, read once each, in parallel."""
    config = corpus.read_plan.corpus
    big = [
        source
        for source in corpus.objects
        if _splits(source, target, config) and (not id_given or source.format is not SourceFormat.JSONL)
    ]
    if not big:
        return {}
    log.info("scanning %d large objects for record borders", len(big))
    with ThreadPoolExecutor(max_workers=min(SCAN_THREADS, len(big))) as pool:
        found = pool.map(lambda source: find_borders(source, _even_offsets(source.info.size, target)[1:-1], config), big)
        try:
            return {source.info.uri: borders for source, borders in zip(big, found, strict=True)}
        except TransientError as error:
            raise RunAborted(f"corpus.uri: not readable: {error}; the same command tries again") from None


def save_manifest(store: Store, path: str, shards: Sequence[Shard], fingerprint: str) -> list[Shard]:
    """Store the cut, unless one stands there already; returns the cut that stands: work from that one.

    Raises:
        RunAborted: what stands is not readable. UsageError: it was made for another fingerprint.
    """
    if store.put_if_absent(path, _encode(shards, fingerprint)):
        return list(shards)
    return load_manifest(store, path, fingerprint)[0]


def load_manifest(store: Store, path: str, expected: str | None = None) -> tuple[list[Shard], str]:
    """The stored cut and the fingerprint it was made for. A million slices take seconds.

    Raises:
        FileNotFoundError: no manifest. RunAborted: damaged. UsageError: another fingerprint than `expected`.
    """
    data = store.read(path)
    try:
        table = pq.read_table(pa.BufferReader(data))
        found = (table.schema.metadata or {})[_FINGERPRINT].decode()
        shards = _decode(table.select(_SCHEMA.names).cast(_SCHEMA))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RunAborted(
            f"manifest {store.uri_of(path)} is damaged ({' '.join(str(error).split())[:200]}); "
            "restore it, or delete this run's folder to start the run anew"
        ) from None
    if expected is not None and found != expected:
        raise UsageError(
            f"manifest {store.uri_of(path)} was made for fingerprint {found[:16]}, this is {expected[:16]}: "
            "the model, settings or source differ; use another output.uri or the configuration the run began with"
        )
    return shards, found


def _encode(shards: Sequence[Shard], fingerprint: str) -> bytes:
    rows = [(shard, piece) for shard in shards for piece in shard.slices]
    partitions = {value: json.dumps(value) for value in {piece.partitions for _, piece in rows}}
    columns = {
        "shard": [shard.number for shard, _ in rows],
        "shard_text_bytes": [shard.text_bytes for shard, _ in rows],
        **{name: [getattr(piece, name) for _, piece in rows] for name in _SCHEMA.names[2:-1]},
        "partitions": [partitions[piece.partitions] for _, piece in rows],
    }
    schema = _SCHEMA.with_metadata({_FINGERPRINT: fingerprint.encode()})
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _decode(table: pa.Table) -> list[Shard]:
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in _SCHEMA.names]
    partitions: dict[str, Partitions] = {text: tuple(map(tuple, json.loads(text))) for text in set(columns[-1])}
    shards: list[Shard] = []
    group: list[ObjectSlice] = []
    enabled = gc.isenabled()
    gc.disable()  # a million young records and not one cycle: the collector would walk them again and again
    try:
        current, text_bytes = 0, 0
        for number, shard_text, uri, size, etag, start, stop, rows, first_row, folders in zip(*columns, strict=True):
            if number != current and group:
                shards.append(Shard(current, tuple(group), text_bytes))
                group = []
            current, text_bytes = number, shard_text
            group.append(ObjectSlice(uri, size, etag, start, stop, rows, first_row, partitions[folders]))
        if group:
            shards.append(Shard(current, tuple(group), text_bytes))
    finally:
        if enabled:
            gc.enable()
    return shards

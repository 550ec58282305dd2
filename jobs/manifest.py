"""The stored cut: one row a slice, Parquet. The first writer wins, and everybody works from what stands.

    save_manifest   Shards into columns, put if absent
    load_manifest   columns back into Shards; refuses a manifest made for another fingerprint

What concerns a whole shard (what is carried, which parts hold earlier texts) stands on its first row. The cut itself is made
in jobs/cutting.py.
"""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.listing import Partitions
from workers.errors import RunAborted, UsageError
from workers.shard import ObjectSlice, Shard
from workers.storage import Store

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
    "carried": pa.int32(),  # on a shard's first row: the base's shard whose parts are copied
    "earlier": pa.list_(pa.string()),  # on a shard's first row: the base's parts that may hold its texts
}
_SCHEMA = pa.schema(_FIELDS)
_OF_SLICES = ("uri", "size", "etag", "start", "stop", "rows", "first_row")
_OF_REUSE = ("carried", "earlier")  # not in manifests of versions that reused nothing


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
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        found = (table.schema.metadata or {})[_FINGERPRINT].decode()
        for name in _OF_REUSE:
            if name not in table.schema.names:
                table = table.append_column(_SCHEMA.field(name), pa.nulls(table.num_rows, _SCHEMA.field(name).type))
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
        **{name: [getattr(piece, name) for _, piece in rows] for name in _OF_SLICES},
        "partitions": [partitions[piece.partitions] for _, piece in rows],
        "carried": [shard.carried if piece is shard.slices[0] else None for shard, piece in rows],
        "earlier": [shard.earlier or None if piece is shard.slices[0] else None for shard, piece in rows],
    }
    schema = _SCHEMA.with_metadata({_FINGERPRINT: fingerprint.encode()})
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _decode(table: pa.Table) -> list[Shard]:
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in _SCHEMA.names]
    partitions: dict[str, Partitions] = {text: tuple(map(tuple, json.loads(text))) for text in set(columns[-3])}
    shards: list[Shard] = []
    group: list[ObjectSlice] = []
    told: tuple[Any, ...] = ()  # of the shard being gathered: text bytes, carried, earlier
    enabled = gc.isenabled()
    gc.disable()  # a million young records and not one cycle: the collector would walk them again and again
    try:
        current = 0
        for number, text_bytes, uri, size, etag, start, stop, rows, first_row, folders, carried, earlier in zip(
            *columns, strict=True
        ):
            if number != current and group:
                shards.append(Shard(current, tuple(group), *told))
                group = []
            if not group:
                current, told = number, (text_bytes, carried, tuple(earlier or ()))
            group.append(ObjectSlice(uri, size, etag, start, stop, rows, first_row, partitions[folders]))
        if group:
            shards.append(Shard(current, tuple(group), *told))
    finally:
        if enabled:
            gc.enable()
    return shards

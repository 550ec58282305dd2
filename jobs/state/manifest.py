"""The stored cut: one row a slice, Parquet. The first writer wins, and everybody works from what stands.

    save_manifest   Shards into columns (jobs/state/stored_shards.py), put if absent
    load_manifest   the columns again, which are the Shards; refuses a manifest made for another fingerprint

What concerns a whole shard (what is carried, which parts hold earlier texts) stands on its first row. The cut itself is made
in jobs/planning/sharding.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from jobs.state.stored_shards import SCHEMA, StoredShards, columns_of
from workers.errors import RunAborted, UsageError
from workers.records.shard import Shard
from workers.storage.store import Store
from workers.table.small_table import decode_table, encode_table

_FINGERPRINT = b"reembed.fingerprint"
_OF_REUSE = ("carried", "earlier")  # not in manifests of versions that reused nothing


def save_manifest(store: Store, path: str, shards: Sequence[Shard], fingerprint: str) -> StoredShards:
    """Store the cut, unless one stands there already; returns the cut that stands: work from that one.

    Raises:
        RunAborted: what stands is not readable. UsageError: it was made for another fingerprint.
    """
    stored = StoredShards(columns_of(shards))
    marked = stored.table.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
    if store.put_if_absent(path, encode_table(marked)):
        return stored
    return load_manifest(store, path, fingerprint)[0]


def load_manifest(store: Store, path: str, expected: str | None = None) -> tuple[StoredShards, str]:
    """The stored cut and the fingerprint it was made for. A million slices take a second or two, and some 200 MB.

    Raises:
        FileNotFoundError: no manifest. RunAborted: damaged. UsageError: another fingerprint than `expected`.
    """
    data = store.read(path)
    try:
        table = decode_table(data)
        found = (table.schema.metadata or {})[_FINGERPRINT].decode()
        for name in _OF_REUSE:
            if name not in table.schema.names:
                table = table.append_column(SCHEMA.field(name), pa.nulls(table.num_rows, SCHEMA.field(name).type))
        shards = StoredShards(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
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

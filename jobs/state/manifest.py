"""The manifest: a run's shards on storage, a Parquet file with one row for each slice. The first writer wins.

    save_manifest   stores Shards as columns (jobs/state/stored_shards.py), if there is no manifest yet
    load_manifest   loads them; refuses a manifest made for another fingerprint

Values of a whole shard (the carried shard, the parts that hold earlier texts) are on its first row.
jobs/planning/sharding.py makes the shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from jobs.state.stored_shards import SCHEMA, StoredShards, columns_of
from workers.errors import RunAborted, UsageError, one_line
from workers.records.shard import Shard
from workers.storage.store import Store
from workers.table.small_table import decode_table, encode_table

_FINGERPRINT = b"reembed.fingerprint"
_LATER = ("carried", "earlier", "deleted")  # missing in manifests of versions without reuse, without tables


def save_manifest(store: Store, path: str, shards: Sequence[Shard], fingerprint: str) -> StoredShards:
    """Store the shards, unless a manifest exists already. Returns the stored shards; callers must use these.

    Raises:
        RunAborted: the existing manifest is not readable. UsageError: it was made for another fingerprint.
    """
    stored = StoredShards(columns_of(shards))
    marked = stored.table.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
    if store.put_if_absent(path, encode_table(marked)):
        return stored
    return load_manifest(store, path, fingerprint)[0]


def load_manifest(store: Store, path: str, expected: str | None = None) -> tuple[StoredShards, str]:
    """The stored shards and the fingerprint they were made for. A million slices take one to two seconds and about 200 MB.

    Raises:
        FileNotFoundError: no manifest. RunAborted: damaged. UsageError: another fingerprint than `expected`.
    """
    data = store.read(path)
    try:
        table = decode_table(data)
        found = (table.schema.metadata or {})[_FINGERPRINT].decode()
        for name in _LATER:
            if name not in table.schema.names:
                table = table.append_column(SCHEMA.field(name), pa.nulls(table.num_rows, SCHEMA.field(name).type))
        shards = StoredShards(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise RunAborted(
            f"manifest {store.uri_of(path)} is damaged ({one_line(error)}); "
            "restore it, or delete this run's folder to start the run anew"
        ) from None
    if expected is not None and found != expected:
        raise UsageError(
            f"manifest {store.uri_of(path)} was made for fingerprint {found[:16]}, this is {expected[:16]}: "
            "the model, settings or source differ; use another output.uri or the configuration the run began with"
        )
    return shards, found

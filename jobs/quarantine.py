"""Whole shards that no replica could embed: their rows are written to the quarantine too, with the reason.

The files look like those that replicas write for single rows (workers/output_schema.py: QUARANTINE_SCHEMA): one line a slice, `row`
null, `rows` the slice's count where a Parquet footer told it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from workers.output_schema import QUARANTINE_SCHEMA
from workers.shard import Shard
from workers.storage import Store, redact


def quarantine_shards(store: Store, run_id: str, shards: Sequence[Shard], reasons: Mapping[int, str]) -> None:
    """Write one file for each shard in `reasons`. Raises: UsageError, TransientError."""
    for shard in shards:
        if shard.number not in reasons:
            continue
        rows = [
            {
                "id": None,
                "object": redact(piece.uri),
                "row": None,
                "rows": piece.rows,
                "reason": f"shard {shard.number}: {reasons[shard.number]}",
                "shard": shard.number,
            }
            for piece in shard.slices
        ]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), sink, compression="zstd")
        store.put(quarantine_path(run_id, shard), sink.getvalue())


def quarantine_path(run_id: str, shard: Shard) -> str:
    """Apart from the file a replica writes for the same shard's rows, which a later attempt may still create."""
    return f"runs/{run_id}/quarantine/shard-{shard.name}-whole.parquet"

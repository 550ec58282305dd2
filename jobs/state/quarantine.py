"""The quarantine folder of a run says exactly what was not embedded: whole shards are added, leftovers of attempts removed.

The files look like those that replicas write for single rows (QUARANTINE_SCHEMA in workers/table/schema.py): one line a
slice, `row` null, `rows` the slice's count where a Parquet footer told it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from workers.records.shard import Receipt, Shard
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.schema import QUARANTINE_SCHEMA


def settle_quarantine(
    store: Store, run_id: str, shards: Sequence[Shard], receipts: Mapping[int, Receipt], reasons: Mapping[int, str]
) -> None:
    """Write one file for each shard given up (`reasons`), and remove files that neither a receipt nor a reason stands for.

    Such files are left by an attempt that died, or by a driver that gave up a shard which a later one embedded.

    Raises: UsageError, TransientError.
    """
    valid = {receipt.quarantine.path for receipt in receipts.values() if receipt.quarantine}
    for shard in shards if reasons else ():
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
        pq.write_table(
            pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), sink, compression="zstd", write_page_checksum=True
        )
        path = RunPaths(run_id).quarantined_shard(shard.number)
        store.put(path, sink.getvalue())
        valid.add(path)
    for path in store.list(RunPaths(run_id).quarantine):
        if path not in valid:
            store.delete(path)

"""The quarantine folder of a run: the driver adds files for whole shards, and removes leftovers of dead attempts.

Afterwards the folder lists exactly the rows that were not embedded. The files have the format of those that replicas write
for single rows (workers/table/quarantine_file.py): one line for each slice, with `row` null and `rows` the slice's number of
rows, if a Parquet footer holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from workers.records.shard import Receipt, Shard
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.paths import RunPaths
from workers.table.quarantine_file import QUARANTINE_SCHEMA
from workers.table.small_table import encode_table


def finish_quarantine(
    store: Store, run_id: str, shards: Sequence[Shard], receipts: Mapping[int, Receipt], reasons: Mapping[int, str]
) -> None:
    """Write one file for each quarantined shard (`reasons`), and remove files that belong to neither a receipt nor a reason.

    Such files come from a dead attempt, or from a driver that quarantined a shard which a later driver embedded.

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
        path = RunPaths(run_id).quarantined_shard(shard.number)
        store.put(path, encode_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)))
        valid.add(path)
    for path in store.list(RunPaths(run_id).quarantine):
        if path not in valid:
            store.delete(path)

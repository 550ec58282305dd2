"""Ids that a file names and the snapshot has not got: found before anything is written, by reading the column of ids."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from jobs.evaluate.given.tables import first_of
from jobs.passes.source import SourceSnapshot
from workers.errors import UsageError
from workers.records.shard import ObjectSlice
from workers.table.part_file import open_part
from workers.table.schema import ID

THREADS = 8
READ_ROWS = 65_536
MOST_ROWS = 50_000_000  # of a snapshot whose ids the driver reads; in a larger one the first pass finds what is missing


def require_ids(source: SourceSnapshot, ids: Iterable[str], setting: str, what: str) -> None:
    """Raises: UsageError: some are not in the snapshot; it names five, and their number."""
    if source.rows > MOST_ROWS:
        return
    wanted = pa.array(sorted(set(ids)), pa.string())

    def found(piece: ObjectSlice) -> set[str]:
        with open_part(source.store, piece.uri, size=piece.size) as part:
            columns = [batch.column(ID).cast(pa.string()) for batch in part.batches(READ_ROWS, [ID])]
        return {id_ for column in columns for id_ in column.filter(pc.is_in(column, value_set=wanted)).to_pylist()}

    with ThreadPoolExecutor(THREADS) as pool:
        known = set().union(*pool.map(found, [piece for shard in source.shards for piece in shard.slices]))
    refuse_unknown([id_ for id_ in wanted.to_pylist() if id_ not in known], source, setting, what)


def refuse_unknown(absent: list[str], source: SourceSnapshot, setting: str, what: str) -> None:
    """Raises: UsageError: there are any. `what` they are, and what stands in the file about them."""
    if absent:
        named, said = what.split(" with ")
        raise UsageError(
            f"{setting}: {len(absent):,} {named} are not in the snapshot {source.uri} ({first_of(absent)}); "
            f"remove their {said}, or embed the corpus that they are of"
        )

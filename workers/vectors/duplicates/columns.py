"""DuplicateColumns: the last pass. It reads what earlier passes left for a shard, and writes it as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.vectors.derived import AlignedColumns
from workers.vectors.duplicates.neighbours import bin_of
from workers.vectors.duplicates.shuffle import Places, Sent, Shuffle
from workers.vectors.shard_rows import PartSpan, ShardRows

ADDED = ("group", "keep", "similarity", "neighbour", "neighbour_similarity", "outlier")


@dataclass(frozen=True)
class DuplicateColumns(AlignedColumns):
    """`outlier_bin`: as neighbours.outlier_limit. `integer_ids`: of the snapshot, int64; else they are strings."""

    places: Places
    chosen: Sent
    neighbours: Shuffle
    ids: Sent
    outlier_bin: int
    integer_ids: bool

    def added(self) -> pa.Schema:
        types = [
            pa.int64(), pa.bool_(), pa.float32(), pa.int64() if self.integer_ids else pa.string(), pa.float32(), pa.bool_(),
        ]  # fmt: skip
        always = ("keep", "outlier")
        return pa.schema([pa.field(name, kind, name not in always) for name, kind in zip(ADDED, types, strict=True)])

    def values(self, rows: ShardRows, part: PartSpan) -> Sequence[pa.Array]:
        found: list[Any] = rows.remember("duplicates", lambda: self._of(rows))
        return [column.slice(part.first, part.rows) for column in found]

    def _of(self, rows: ShardRows) -> list[pa.Array]:
        count, workplace = len(rows), rows.workplace
        place = self.places.of_shard(rows.number)
        chosen = self.chosen.read(workplace, place, place + 1)
        at = chosen["row"] - rows.first_row
        lonely = np.ones(count, bool)
        lonely[at] = False
        group, keep, similarity = np.zeros(count, np.int64), np.ones(count, bool), np.zeros(count, np.float32)
        group[at], keep[at], similarity[at] = chosen["group"], chosen["kept"] == chosen["row"], chosen["cosine"]

        near = self.neighbours.sent_by([rows.number]).read(workplace, 0, 1)
        at = near["row"] - rows.first_row
        alone = np.ones(count, bool)
        alone[at] = False
        cosine = np.zeros(count, np.float32)
        cosine[at] = near["cosine"]
        outlier = np.where(alone, self.outlier_bin >= 0, bin_of(cosine) < self.outlier_bin)
        return [
            pa.array(group, mask=lonely),
            pa.array(keep),
            pa.array(similarity, mask=lonely),
            self._ids(rows, place),
            pa.array(cosine, mask=alone),
            pa.array(outlier),
        ]

    def _ids(self, rows: ShardRows, place: int) -> pa.Array:
        """[N] id of each row's neighbour."""
        kind = self.added().field("neighbour").type
        data = pa.BufferReader(pa.py_buffer(self.ids.read(rows.workplace, place, place + 1)))
        where, ids, known = np.full(len(rows), -1, np.int64), [], 0
        while data.tell() < data.size():  # one Arrow stream for each shard that sent ids
            named = pa.ipc.open_stream(data).read_all()
            where[named.column("row").to_numpy() - rows.first_row] = known + np.arange(len(named))
            known += len(named)
            ids += named.column("id").chunks
        values = pa.chunked_array(ids, kind).combine_chunks() if ids else pa.nulls(0, kind)
        return pc.take(values, pa.array(where, mask=where < 0))

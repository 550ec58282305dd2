"""Neighbours: the nearest row that was met, of every row, and its id.

MergeNearest    shards: what the cells and the copies say -> one neighbour a row, kept in scratch; asks for its id
SendIds         shards -> shards: the ids that were asked for
outlier_limit   the cosine below which a row is an outlier
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.vectors.duplicates.find_pairs import EDGE, NEAR
from workers.vectors.duplicates.shuffle import Places, Sent, Shuffle
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step

BINS = 1 << 16  # of cosines from -1 to 1: outliers are told apart to 3e-5


@dataclass(frozen=True)
class MergeNearest(Step):
    """Answers `bins` [BINS]: rows by the cosine to their neighbour; and `alone`: rows that met no other.

    A copy's neighbour is another row of the same text, with cosine 1; of equal cosines the first row is taken.
    """

    places: Places
    nearest: Sent
    copies: Sent
    neighbours: Shuffle
    asked: Shuffle

    def of_shard(self, rows: ShardRows) -> Partial:
        place = self.places.of_shard(rows.number)
        near = self.nearest.read(rows.workplace, place, place + 1)
        copies = self.copies.read(rows.workplace, place, place + 1)
        found = np.empty(len(near) + len(copies), NEAR)
        for name in ("row", "other"):
            found[name] = np.concatenate([near[name], copies[name]])
        found["cosine"] = np.concatenate([near["cosine"], np.ones(len(copies), np.float32)])
        found = found[np.lexsort((found["other"], -found["cosine"], found["row"]))]
        found = found[np.flatnonzero(np.diff(found["row"], prepend=-1))]
        self.neighbours.write(rows.workplace, rows.number, np.zeros(len(found), np.int64), found)
        asks = np.empty(len(found), EDGE)
        asks["row"], asks["other"] = found["row"], found["other"]
        self.asked.write(rows.workplace, rows.number, self.places.of(found["other"]), asks)
        bins = np.bincount(bin_of(found["cosine"]), minlength=BINS)
        return {"bins": bins, "alone": np.array(len(rows) - len(found))}


def bin_of(cosines: NDArray[np.float32]) -> NDArray[np.int64]:
    """[N] bin of each cosine, 0 to BINS - 1."""
    return np.minimum((cosines.astype(np.float64) + 1) * (BINS / 2), BINS - 1).astype(np.int64)


def outlier_limit(bins: NDArray[np.int64], alone: int, share: float) -> int:
    """The largest bin b such that at most `share` of all rows are alone or in a bin below b; -1: not even those alone."""
    most = int(share * (bins.sum() + alone))
    if alone > most:
        return -1
    return int(np.searchsorted(np.concatenate([[0], np.cumsum(bins)]) + alone, most, side="right")) - 1


@dataclass(frozen=True)
class SendIds(Step):
    """To each shard a table (row, id) of the ids that it asked for, as an Arrow stream."""

    places: Places
    asked: Sent
    ids: Shuffle
    columns: tuple[str, ...] = ("id",)

    def of_shard(self, rows: ShardRows) -> Partial:
        place = self.places.of_shard(rows.number)
        asks = self.asked.read(rows.workplace, place, place + 1)
        asks = asks[np.argsort(self.places.of(asks["row"]), kind="stable")]
        ids = rows.column("id").combine_chunks().take(pa.array(asks["other"] - rows.first_row))
        borders = np.searchsorted(self.places.of(asks["row"]), np.arange(len(self.places.numbers) + 1))
        pieces = []
        for start, stop in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            named = pa.table({"row": asks["row"][start:stop].copy(), "id": ids.slice(start, stop - start)})
            pieces.append(_as_bytes(named) if len(named) else b"")
        self.ids.write_bytes(rows.workplace, rows.number, pieces)
        return {"ids": np.array(len(asks))}


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    taken: bytes = sink.getvalue().to_pybytes()
    return taken

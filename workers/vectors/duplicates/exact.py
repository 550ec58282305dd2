"""Exact copies: rows of equal text, found by their hashes, whatever their vectors.

    SendHashes    shards -> partitions of hashes      (text hash, chunk, row)
    FindCopies    a partition -> shards               (row, another row of the text, copies)

A row of a long text is known by the hash of the whole text and its number of chunk. The first row of a text is its
representative: it alone is compared with other texts, and stands for all its copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.table.schema import CHUNK
from workers.vectors.duplicates.shuffle import Places, Records, Sent, Shuffle
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step, UnitStep
from workers.vectors.workplace import Workplace

PARTITION_ROWS = 1 << 20
HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("chunk", "<i4"), ("row", "<i8")])
COPY = np.dtype([("row", "<i8"), ("other", "<i8"), ("copies", "<i4")])
"""`other`: of a representative its second row; of the others the representative. `copies`: of a representative the number
of rows of its text; of the others 0."""


def hashes_of(rows: ShardRows) -> Records:
    """[N] HASH of the shard's rows."""
    found = np.empty(len(rows), HASH)
    cells = [
        np.frombuffer(chunk.buffers()[1], "<u8").reshape(-1, 2)[chunk.offset :][: len(chunk)] for chunk in _filled(rows)
    ]
    words = np.concatenate([np.empty((0, 2), "<u8"), *cells])
    found["high"], found["low"] = words[:, 0], words[:, 1]
    found["chunk"] = rows.column(CHUNK).to_numpy() if CHUNK in rows.columns.column_names else 0
    found["row"] = rows.first_row + np.arange(len(rows))
    return found


def _filled(rows: ShardRows) -> list[pa.FixedSizeBinaryArray]:
    return [chunk for chunk in rows.column("text_hash").chunks if len(chunk)]


@dataclass(frozen=True)
class SendHashes(Step):
    """Every row's hash, to the partition that it belongs to."""

    hashes: Shuffle
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        found = hashes_of(rows)
        to = (found["high"] % np.uint64(self.hashes.destinations)).astype(np.int64)
        self.hashes.write(rows.workplace, rows.number, to, found)
        return {"rows": np.array(len(found))}


@dataclass(frozen=True)
class FindCopies(UnitStep):
    """Of a partition of hashes: the rows of texts that occur more than once, to the shards of these rows."""

    places: Places
    hashes: Sent
    copies: Shuffle

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        hashes = self.hashes.read(workplace, unit, unit + 1)
        found = copies_among(hashes)
        self.copies.write(workplace, unit, self.places.of(found["row"]), found)
        sizes = found["copies"][found["copies"] > 0].astype(np.int64)
        return {"texts": np.array(len(sizes)), "copies": (sizes - 1).sum(), "pairs": (sizes * (sizes - 1) // 2).sum()}


def copies_among(hashes: Records) -> Records:
    """COPY records of all rows whose text occurs more than once."""
    order = np.lexsort((hashes["row"], hashes["chunk"], hashes["low"], hashes["high"]))
    ordered = hashes[order]
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = np.logical_or.reduce([ordered[name][1:] != ordered[name][:-1] for name in ("high", "low", "chunk")])
    starts: NDArray[np.int64] = np.flatnonzero(fresh)
    sizes = np.diff(np.concatenate([starts, [len(ordered)]]))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    first = np.repeat(starts, sizes)
    at = first + np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found = np.empty(len(at), COPY)
    found["row"] = ordered["row"][at]
    leads = at == first
    found["other"] = np.where(leads, ordered["row"][np.minimum(at + 1, len(ordered) - 1)], ordered["row"][first])
    found["copies"] = np.where(leads, np.repeat(sizes, sizes), 0)
    return found

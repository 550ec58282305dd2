"""Routing: every text goes to its nearest cells, with its vector as it is stored.

    CELL_ROW      one text in one of its cells: row, copies, all its cells, vector
    Route         shards -> cells
    plan_units    cells -> units of bounded memory; a crowded cell becomes several

The records of a shard are sent in pieces (ranges of cells), each a file of its own: memory holds one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.config import VectorType
from workers.table.vectors import Floats, decode, unit_rows
from workers.vectors.duplicates.shuffle import Places, Records, Sent, Shuffle
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step

PIECE_BYTES = 64 << 20  # of a file
PRODUCT = 1 << 22  # cosines computed at once: 16 MiB
UNIT_BYTES = 64 << 20  # of a unit's vectors, decoded


def cell_row(width: int, stored: np.dtype[Any], probe: int) -> np.dtype[Any]:
    """The record of a routed text: `width` stored components; `cells` ascending."""
    return np.dtype(
        [("row", "<i8"), ("copies", "<i4"), ("cells", "<i4", (probe,)), ("vector", stored.newbyteorder("<"), (width,))]
    )


@dataclass(frozen=True)
class Form:
    """How the snapshot's vectors are stored."""

    vector: VectorType
    int8_scale: float | None
    dim: int

    def unit(self, stored: Records) -> Floats:
        """[N, D] of unit length, of stored components [N, W]."""
        return unit_rows(decode(np.ascontiguousarray(stored), self.vector, self.int8_scale))


@dataclass(frozen=True)
class Pieces:
    """Cells in ranges; piece p of shard s is the file s * count + p."""

    cells: int
    count: int
    shuffle: Shuffle  # its destinations: cells of one piece

    @property
    def width(self) -> int:
        """Cells of a piece; the last may have fewer."""
        return self.shuffle.destinations

    def sent(self, numbers: tuple[int, ...]) -> tuple[Sent, ...]:
        """The files of each piece, in order of shards."""
        return tuple(self.shuffle.sent_by(number * self.count + piece for number in numbers) for piece in range(self.count))


@dataclass(frozen=True)
class Route(Step):
    """Answers `counts` [cells]: rows sent to each."""

    places: Places
    copies: Sent
    pieces: Pieces
    centroids: Floats
    probe: int

    def of_shard(self, rows: ShardRows) -> Partial:
        times = self._copies(rows)
        cells = self._cells(rows)
        source, to = np.divmod(np.arange(cells.size, dtype=np.int64), self.probe)  # each text once for each of its cells
        to = cells[source, to].astype(np.int64)
        used = times[source] > 0
        source, to = source[used], to[used]
        for piece in range(self.pieces.count):
            low = piece * self.pieces.width
            here = np.flatnonzero((to >= low) & (to < low + self.pieces.width))
            records = np.empty(len(here), self.pieces.shuffle.dtype)
            records["row"] = rows.first_row + source[here]
            records["copies"], records["cells"] = times[source[here]], cells[source[here]]
            _fill(records["vector"], rows, source[here])
            number = rows.number * self.pieces.count + piece
            self.pieces.shuffle.write(rows.workplace, number, to[here] - low, records)
        return {"counts": np.bincount(to, minlength=self.pieces.cells)}

    def _copies(self, rows: ShardRows) -> NDArray[np.int32]:
        """[N] rows that each row stands for: 0 for one whose text has an earlier row."""
        times = np.ones(len(rows), np.int32)
        place = self.places.of_shard(rows.number)
        known = self.copies.read(rows.workplace, place, place + 1)
        times[known["row"] - rows.first_row] = known["copies"]
        return times

    def _cells(self, rows: ShardRows) -> NDArray[np.int32]:
        """[N, probe] the nearest cells, ascending by number."""
        found = np.empty((len(rows), self.probe), np.int32)
        step = max(1, PRODUCT // len(self.centroids))
        for first, block in rows.blocks(unit=True):
            for at in range(0, len(block), step):
                cosines = block[at : at + step] @ self.centroids.T
                nearest = np.argpartition(-cosines, self.probe - 1, axis=1)[:, : self.probe]
                found[first + at : first + at + len(cosines)] = np.sort(nearest, axis=1)
        return found


def _fill(target: Records, rows: ShardRows, wanted: NDArray[np.int64]) -> None:
    """Stored components of rows of the shard, in the order asked for."""
    for part, stored in zip(rows.parts, rows.stored, strict=True):
        here = np.flatnonzero((wanted >= part.first) & (wanted < part.first + part.rows))
        target[here] = stored[wanted[here] - part.first]


def stored_rows(rows: ShardRows, wanted: NDArray[np.int64], dtype: np.dtype[Any]) -> Records:
    """[len(wanted), W] as they are stored. `dtype`: of the record's field `vector`."""
    base, shape = dtype.subdtype or (dtype, ())
    found = np.empty((len(wanted), *shape), base)
    _fill(found, rows, wanted)
    return found


def plan_units(counts: NDArray[np.int64], width: int, rows: int) -> NDArray[np.int64]:
    """[units, 4] first cell, last cell + 1, first row, last row + 1 (0: all rows of these cells).

    Cells follow each other in a unit until they have `rows` rows; a cell with more becomes several units, each of which
    compares `rows` of its rows with all of them. No unit reaches over the border of a piece (`width` cells).
    """
    units: list[tuple[int, int, int, int]] = []
    first = total = 0
    for cell, count in enumerate(counts.tolist()):
        if count > rows or total + count > rows or cell // width != first // width:
            if total:
                units.append((first, cell, 0, 0))
            first, total = cell, 0
        if count > rows:
            units += [(cell, cell + 1, at, min(at + rows, count)) for at in range(0, count, rows)]
            first, total = cell + 1, 0
        else:
            total += count
    if total:
        units.append((first, len(counts), 0, 0))
    return np.array(units, np.int64).reshape(-1, 4)

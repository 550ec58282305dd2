"""FindPairs: compares the rows of cells. What it finds goes to scratch; the driver is answered figures alone.

edges      a row and another of its set, as found in one cell: at most one a row and cell
nearest    for each row the nearest row of the cell, to the shard of the row
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.vectors.duplicates.cell_search import NONE, CellRows, CellSearch
from workers.vectors.duplicates.route import Form
from workers.vectors.duplicates.shuffle import Places, Records, Sent, Shuffle
from workers.vectors.step import Partial, UnitStep
from workers.vectors.workplace import Workplace

COLUMN_ROWS = 8192  # of a crowded cell, that its blocks are compared with at once
EDGE = np.dtype([("row", "<i8"), ("other", "<i8")])
NEAR = np.dtype([("row", "<i8"), ("other", "<i8"), ("cosine", "<f4")])


@dataclass(frozen=True)
class CellFiles:
    """One cell's rows in all files; positions count them in order of files."""

    workplace: Workplace
    sent: Sent
    spans: NDArray[np.int64]  # [files, 2] where the rows begin and end in each file

    def rows(self, first: int, stop: int) -> Records:
        """The rows of these positions."""
        sizes = self.spans[:, 1] - self.spans[:, 0]
        before = np.cumsum(sizes) - sizes
        within = np.clip(np.array([[first], [stop]]) - before, 0, sizes)
        return np.concatenate(self.sent.pieces(self.workplace, (self.spans[:, 0] + within).T))

    def __len__(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


@dataclass(frozen=True)
class FindPairs(UnitStep):
    """Answers `pairs`, `text_pairs` and `compared` (rows, each once a cell)."""

    places: Places
    pieces: tuple[Sent, ...]  # of each piece of the cells
    form: Form
    threshold: float
    units: NDArray[np.int64]  # of route.plan_units
    edges: Shuffle
    nearest: Shuffle

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        first, stop, start, end = self.units[unit].tolist()
        work = self._crowded(workplace, first, start, end) if end else self._cells(workplace, first, stop)
        edges, near = [np.empty(0, EDGE)], [np.empty(0, NEAR)]
        pairs = texts = compared = 0
        for rows, search in work:
            edges.append(_edges(rows, search))
            near.append(_nearest(rows, search))
            pairs, texts, compared = pairs + search.pairs, texts + search.texts, compared + len(near[-1])
        found = np.concatenate(near)
        joined = np.concatenate(edges)
        self.edges.write(workplace, unit, np.zeros(len(joined), np.int64), joined)
        self.nearest.write(workplace, unit, self.places.of(found["row"]), found)
        return {"pairs": np.array(pairs), "text_pairs": np.array(texts), "compared": np.array(compared)}

    def _piece(self, cell: int) -> tuple[Sent, int]:
        """The files of the cell's piece, and the cell's place in it."""
        piece, place = divmod(cell, self.pieces[0].shuffle.destinations)
        return self.pieces[piece], place

    def _cells(self, workplace: Workplace, first: int, stop: int) -> Iterator[tuple[NDArray[np.int64], CellSearch]]:
        """(row numbers by position, what was found) of each cell."""
        sent, low = self._piece(first)
        offsets = sent.offsets(workplace, low, low + stop - first)
        files = sent.pieces(workplace, offsets[:, [0, -1]])
        for cell in range(first, stop):
            at = offsets[:, cell - first] - offsets[:, 0], offsets[:, cell - first + 1] - offsets[:, 0]
            records = np.concatenate([file[start:end] for file, start, end in zip(files, *at, strict=True)])
            if len(records):
                search = CellSearch(len(records), self.threshold)
                search.among(CellRows.of(records, 0, cell, self.form))
                yield records["row"], search

    def _crowded(
        self, workplace: Workplace, cell: int, start: int, end: int
    ) -> Iterator[tuple[NDArray[np.int64], CellSearch]]:
        """Some rows of a cell, compared with all of it."""
        sent, low = self._piece(cell)
        files = CellFiles(workplace, sent, sent.offsets(workplace, low, low + 1))
        left = CellRows.of(files.rows(start, end), start, cell, self.form)
        search = CellSearch(len(files), self.threshold)
        numbers = []
        for at in range(0, len(files), COLUMN_ROWS):
            records = files.rows(at, at + COLUMN_ROWS)
            numbers.append(records["row"].copy())
            search.against(left, CellRows.of(records, at, cell, self.form))
        yield np.concatenate(numbers), search


def _edges(rows: NDArray[np.int64], search: CellSearch) -> Records:
    roots = search.links.roots(np.arange(len(rows)))
    joined = np.flatnonzero(roots != np.arange(len(rows)))
    found = np.empty(len(joined), EDGE)
    found["row"], found["other"] = rows[joined], rows[roots[joined]]
    return found


def _nearest(rows: NDArray[np.int64], search: CellSearch) -> Records:
    met = np.flatnonzero(search.cosine > NONE)
    found = np.empty(len(met), NEAR)
    found["row"], found["other"] = rows[met], rows[search.nearest[met]]
    found["cosine"] = np.clip(search.cosine[met], -1, 1)
    return found

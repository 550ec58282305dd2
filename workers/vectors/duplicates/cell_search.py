"""CellSearch: pairs of near rows and each row's nearest, among the rows of one cell, block by block.

Memory holds one block of cosines (PRODUCT of them), never rows x rows. Cosines are computed in float32; those within BORDER
of the threshold again in float64, so whether two rows are a pair does not depend on the cell or block in which they meet.
A pair that meets in several cells counts in the one with the smallest number.
Axes: L rows on the left of a block, R on its right, P = probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.duplicates.links import Links, Numbers
from workers.vectors.duplicates.route import PRODUCT, Form
from workers.vectors.duplicates.shuffle import Records

BORDER = 1e-5  # beyond what float32 loses in a product of 4,096 components
FEW = 1 << 16  # pairs that are looked at one by one; of more, a block's flags are combined as a whole
ROUNDING = 1e-12  # of a cosine in float64: a vector's cosine to itself may be 1 - 2e-16
RECHECKED = 4096  # borderline pairs computed in float64 at once
NONE = np.float32(-2)  # below every cosine
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CellRows:
    """Consecutive rows of a cell."""

    first: int  # position in the cell
    copies: NDArray[np.int64]
    lower: NDArray[np.int32]  # [N, P - 1] its other cells, where their numbers are smaller, else -1
    unit: Floats  # [N, D]

    @classmethod
    def of(cls, records: Records, first: int, cell: int, form: Form) -> CellRows:
        others = records["cells"][:, :-1]
        lower = np.where(others < cell, others, -1)
        return cls(first, records["copies"].astype(np.int64), lower, form.unit(records["vector"]))

    def __len__(self) -> int:
        return len(self.unit)

    def part(self, start: int, stop: int) -> CellRows:
        span = slice(start, stop)
        return CellRows(self.first + start, self.copies[span], self.lower[span], self.unit[span])


class CellSearch:
    """Results so far: `pairs` (copies counted as often as they stand), `texts` (pairs of distinct texts), and by position
    in the cell `nearest` and `cosine` (NONE where no other row was met)."""

    def __init__(self, rows: int, threshold: float) -> None:
        self._threshold = threshold
        self.links = Links(rows)
        self.nearest: Numbers = np.full(rows, -1, np.int64)
        self.cosine = np.full(rows, NONE, np.float32)
        self.pairs = self.texts = 0

    def among(self, rows: CellRows) -> None:
        """Compare all rows of the cell, which are in memory, with each other: each block serves both its sides."""
        step = max(1, PRODUCT // len(rows))
        for at in range(0, len(rows), step):
            self._compare(rows.part(at, at + step), rows.part(at, len(rows)), both=True)

    def against(self, left: CellRows, right: CellRows) -> None:
        """Find the nearest of `left` among `right`, and the pairs whose left row stands first in the cell."""
        step = max(1, PRODUCT // len(right))
        for at in range(0, len(left), step):
            self._compare(left.part(at, at + step), right, both=False)

    def _compare(self, left: CellRows, right: CellRows, *, both: bool) -> None:
        cosines = left.unit @ right.unit.T
        same = np.arange(left.first, left.first + len(left)) - right.first  # where a row meets itself
        meets = np.flatnonzero((same >= 0) & (same < len(right)))
        cosines[meets, same[meets]] = NONE
        self._improve(left.first, cosines.argmax(axis=1), cosines.max(axis=1), right.first)
        later = len(left) + left.first - right.first
        if both and later < len(right):
            behind = cosines[:, later:]
            self._improve(right.first + later, behind.argmax(axis=0), behind.max(axis=0), left.first)
        if right.first + len(right) > left.first + 1:
            self._link(left, right, cosines, bool(len(meets)) or right.first < left.first)

    def _improve(self, first: int, at: Numbers, cosine: Floats, offset: int) -> None:
        span = slice(first, first + len(at))
        better = cosine > self.cosine[span]  # of equal ones the first met stays
        self.cosine[span][better], self.nearest[span][better] = cosine[better], at[better] + offset

    def _link(self, left: CellRows, right: CellRows, cosines: Floats, overlap: bool) -> None:
        near: Flags = cosines >= self._threshold - BORDER
        if overlap:  # each pair once: its left row stands first
            near &= (right.first + np.arange(len(right)))[None, :] > (left.first + np.arange(len(left)))[:, None]
        if not near.any():
            return
        near &= ~self._refused(left, right, near & (cosines < self._threshold + BORDER))
        counted = near & ~_meet_before(left, right, near)
        self.texts += (texts := int(counted.sum()))
        alone = (left.copies == 1).all() and (right.copies == 1).all()
        self.pairs += texts if alone else int(left.copies @ (counted @ right.copies))
        while near.sum() > FEW:  # a crowd: one link a row and column, until what is left are rows of one set or few
            for rows, columns in (_first_of(near), _first_of(near.T)[::-1]):
                self.links.join(rows + left.first, columns + right.first)
            of_left, of_right = (self.links.roots(side.first + np.arange(len(side))) for side in (left, right))
            near &= of_left[:, None] != of_right[None, :]
        rows, columns = np.nonzero(near)
        self.links.join(rows + left.first, columns + right.first)

    def _refused(self, left: CellRows, right: CellRows, border: Flags) -> Flags:
        """Of borderline pairs: those below the threshold in float64."""
        refused = np.zeros_like(border)
        rows, columns = np.nonzero(border)
        for at in range(0, len(rows), RECHECKED):
            span = slice(at, at + RECHECKED)
            cosine = cosines_in_float64(left.unit[rows[span]], right.unit[columns[span]])
            below = cosine < self._threshold - ROUNDING
            refused[rows[span][below], columns[span][below]] = True
        return refused


def _first_of(near: Flags) -> tuple[Numbers, Numbers]:
    """The rows that have a flag, and the first column of each."""
    rows = np.flatnonzero(near.any(axis=1))
    return rows, near[rows].argmax(axis=1)


def cosines_in_float64(left: Floats, right: Floats) -> NDArray[np.float64]:
    """[N] cosine of left[i] and right[i]."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    found: NDArray[np.float64] = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return found


def _meet_before(left: CellRows, right: CellRows, near: Flags) -> Flags:
    """Pairs that meet in a cell of a smaller number too."""
    met = np.zeros_like(near)
    if near.sum() <= FEW:
        rows, columns = np.nonzero(near)
        one, other = left.lower[rows], right.lower[columns]
        met[rows, columns] = ((one[:, :, None] == other[:, None, :]) & (one >= 0)[:, :, None]).any(axis=(1, 2))
        return met
    for one in left.lower.T:
        for other in right.lower.T:
            met |= (one[:, None] == other[None, :]) & (one >= 0)[:, None]
    return met

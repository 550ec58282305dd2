"""Groups: rows that are connected by pairs, over any number of steps (single linkage).

    JoinPairs      one unit: edges and copies -> the group of each row that has one, to the shard of the row
    SendMembers    shards -> partitions of groups, with vectors
    ChooseKept     a partition of groups -> which row is kept, and each row's cosine to it, to the shard of the row

Groups are numbered from 0 in order of their first rows. JoinPairs holds some 50 bytes for each row of a group, and nothing
for other rows; the others hold a partition's rows without vectors, its groups' sums, and one block of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.table.vectors import Floats
from workers.vectors.duplicates.links import Links
from workers.vectors.duplicates.route import Form, stored_rows
from workers.vectors.duplicates.shuffle import Places, Records, Sent, Shuffle
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step, UnitStep
from workers.vectors.workplace import Workplace

Keep = Literal["first", "longest", "central"]
MEMBER = np.dtype([("row", "<i8"), ("group", "<i8")])
CHOSEN = np.dtype([("row", "<i8"), ("group", "<i8"), ("kept", "<i8"), ("cosine", "<f4")])
SIZES = (2, 3, 4, 8, 16, 32, 64, 128, 1024)  # lower limits of the classes of group sizes that are reported
PARTITION_ROWS = 32_768
BLOCK_ROWS = 8192
READINGS = 3  # of a partition by ChooseKept; five for keep: central


def grouped_row(width: int, stored: np.dtype[Any]) -> np.dtype[Any]:
    """The record of a row in a group: `width` stored components."""
    vector = ("vector", stored.newbyteorder("<"), (width,))
    return np.dtype([("row", "<i8"), ("group", "<i8"), ("tokens", "<i4"), vector])


@dataclass(frozen=True)
class JoinPairs(UnitStep):
    """Answers `groups`, `rows` in them, the `largest`, and `sizes`: groups by the classes of SIZES."""

    places: Places
    edges: Sent
    copies: Sent
    members: Shuffle

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        edges = self.edges.read(workplace, 0, 1)
        copies = self.copies.read(workplace, 0, self.copies.shuffle.destinations)
        one = np.concatenate([edges["row"], copies["row"]])
        other = np.concatenate([edges["other"], copies["other"]])
        del edges, copies
        rows, at = np.unique(np.stack([one, other]), return_inverse=True)
        links = Links(len(rows))
        links.join(*at.reshape(2, -1))
        _, group, sizes = np.unique(links.roots(np.arange(len(rows))), return_inverse=True, return_counts=True)
        found = np.empty(len(rows), MEMBER)
        found["row"], found["group"] = rows, group
        self.members.write(workplace, unit, self.places.of(rows), found)
        classes = np.bincount(np.searchsorted(SIZES, sizes, side="right") - 1, minlength=len(SIZES))
        largest = sizes.max(initial=0)
        return {
            "groups": np.array(len(sizes)), "rows": np.array(len(rows)), "largest": np.array(largest), "sizes": classes,
        }  # fmt: skip


@dataclass(frozen=True)
class SendMembers(Step):
    """`groups`: in all; a partition gets consecutive groups. `columns`: num_tokens, where the longest is kept."""

    places: Places
    members: Sent
    grouped: Shuffle
    groups: int
    columns: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        place = self.places.of_shard(rows.number)
        members = self.members.read(rows.workplace, place, place + 1)
        wanted = members["row"] - rows.first_row
        records = np.empty(len(members), self.grouped.dtype)
        records["row"], records["group"] = members["row"], members["group"]
        records["tokens"] = rows.column(self.columns[0]).to_numpy()[wanted] if self.columns else 0
        records["vector"] = stored_rows(rows, wanted, self.grouped.dtype["vector"])
        self.grouped.write(rows.workplace, rows.number, members["group"] * self.grouped.destinations // self.groups, records)
        return {"members": np.array(len(members))}


@dataclass(frozen=True)
class ChooseKept(UnitStep):
    """Answers `below`: rows whose cosine to the kept row of their group is below the threshold (they came by others)."""

    places: Places
    grouped: Sent
    chosen: Shuffle
    form: Form
    keep: Keep
    threshold: float

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        parts = [
            (block["row"].copy(), block["group"].copy(), block["tokens"].copy()) for block in self._blocks(unit, workplace)
        ]
        if not parts:
            self.chosen.write(workplace, unit, np.empty(0, np.int64), np.empty(0, CHOSEN))
            return {"below": np.array(0)}
        row, group, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
        first = int(group.min())
        group -= first
        kept_at = self._kept(unit, workplace, row, group, tokens)
        found = np.empty(len(row), CHOSEN)
        found["row"], found["group"], found["kept"] = row, group + first, row[kept_at][group]
        found["cosine"] = self._cosines(unit, workplace, group, kept_at)
        found["cosine"][kept_at] = 1.0
        self.chosen.write(workplace, unit, self.places.of(row), found)
        return {"below": np.array((found["cosine"] < np.float32(self.threshold)).sum())}

    def _kept(
        self, unit: int, workplace: Workplace, row: NDArray[np.int64], group: NDArray[np.int64], tokens: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """[groups] position of the row that is kept; of equal ones the first."""
        worth = np.zeros(len(row))
        if self.keep == "longest":
            worth = tokens.astype(np.float64)
        elif self.keep == "central":
            worth = self._mean_cosines(unit, workplace, group)
        order = np.lexsort((row, -worth, group))
        return order[np.flatnonzero(np.diff(group[order], prepend=-1))]

    def _mean_cosines(self, unit: int, workplace: Workplace, group: NDArray[np.int64]) -> NDArray[np.float64]:
        """[N] of each row to the other rows of its group: (x . sum of the group - x . x) / (rows - 1), in float64."""
        sizes = np.bincount(group)
        sums = np.zeros((len(sizes), self.form.dim))
        for at, vectors in self._vectors(unit, workplace):
            here = group[at : at + len(vectors)]
            order = np.argsort(here, kind="stable")
            starts = np.flatnonzero(np.diff(here[order], prepend=-1))
            sums[here[order][starts]] += np.add.reduceat(vectors[order].astype(np.float64), starts, axis=0)
        means = np.empty(len(group))
        for at, vectors in self._vectors(unit, workplace):
            here, wide = group[at : at + len(vectors)], vectors.astype(np.float64)
            means[at : at + len(vectors)] = ((wide * sums[here]).sum(axis=1) - (wide * wide).sum(axis=1)) / (sizes[here] - 1)
        return np.round(means, 9)  # rows of equal vectors are equal, whatever the order of their sums

    def _cosines(
        self, unit: int, workplace: Workplace, group: NDArray[np.int64], kept_at: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[N] of each row to the kept row of its group."""
        kept = np.empty((len(kept_at), self.form.dim), np.float32)
        for at, vectors in self._vectors(unit, workplace):
            here = np.flatnonzero((kept_at >= at) & (kept_at < at + len(vectors)))
            kept[here] = vectors[kept_at[here] - at]
        found = np.empty(len(group))
        for at, vectors in self._vectors(unit, workplace):
            of_kept = kept[group[at : at + len(vectors)]].astype(np.float64)
            found[at : at + len(vectors)] = (vectors.astype(np.float64) * of_kept).sum(axis=1)
        return np.clip(found, -1, 1)

    def _vectors(self, unit: int, workplace: Workplace) -> Iterator[tuple[int, Floats]]:
        """(position of the first, vectors of unit length) of each block."""
        at = 0
        for block in self._blocks(unit, workplace):
            yield at, self.form.unit(block["vector"])
            at += len(block)

    def _blocks(self, unit: int, workplace: Workplace) -> Iterator[Records]:
        spans = self.grouped.offsets(workplace, unit, unit + 1)
        for at in range(len(spans)):
            start, stop = spans[at].tolist()
            for first in range(start, stop, BLOCK_ROWS):
                yield self.grouped.records(workplace, at, first, min(first + BLOCK_ROWS, stop))

"""Merge: many files of a shuffle become few, so that receivers ask for fewer ranges.

Every receiver reads two ranges (offsets, records) of every file: with as many receivers as files that grows with the square
of the shards. A merge reads each file once and whole, and leaves files of MERGE_BYTES.

    FileSizes      one unit: how large the files are
    plan_merge     files that follow each other -> groups of bounded size
    Merge          one unit a group: a file of the same form, whose records are in the order of the files merged

So a receiver sees the same records in the same order. The files that were merged stay until the run is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workers.vectors.duplicates.shuffle import Sent, Shuffle, gone
from workers.vectors.step import Partial, UnitStep
from workers.vectors.workplace import Workplace

MERGE_BYTES = 64 << 20  # of a merged file, held in memory three times
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class FileSizes(UnitStep):
    """Answers `bytes` [files]."""

    sent: Sent

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:  # noqa: ARG002 - there is one
        shuffle = self.sent.shuffle
        sizes = workplace.output.list(shuffle.folder(workplace))
        paths = [shuffle.path(workplace, file) for file in self.sent.files]
        if lost := next((path for path in paths if path not in sizes), None):
            raise gone(workplace, workplace.output.uri_of(lost))
        return {"bytes": np.array([sizes[path] for path in paths], np.int64)}


def plan_merge(files: Sequence[int], sizes: Mapping[int, int], most: int) -> Groups:
    """Files in order, in groups of at most `most` bytes; a larger file is a group of its own."""
    groups: list[list[int]] = []
    room = 0
    for file in files:
        if not groups or sizes[file] > room:
            groups.append([])
            room = most
        groups[-1].append(file)
        room -= sizes[file]
    return tuple(map(tuple, groups))


@dataclass(frozen=True)
class Merge(UnitStep):
    """Unit u writes group u as file u of `merged`."""

    source: Shuffle
    groups: Groups
    merged: Shuffle

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:
        files = self.source.sent_by(self.groups[unit]).whole(workplace)
        offsets = np.stack([offsets for offsets, _ in files])
        records = [memoryview(data) for _, data in files]
        counts = np.diff(offsets).T  # [destinations, files]
        to, of = np.nonzero(counts)  # by destination, and within one by file
        size = self.source.dtype.itemsize
        spans = zip(of.tolist(), (offsets[of, to] * size).tolist(), (offsets[of, to + 1] * size).tolist(), strict=True)
        data = b"".join([records[file][start:stop] for file, start, stop in spans])
        self.merged.put(workplace, unit, counts.sum(axis=1), data)
        return {"bytes": np.array(len(data))}

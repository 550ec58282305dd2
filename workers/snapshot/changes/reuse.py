"""Which vectors are known to be the same without reading them: those that the newer run took from the older one.

A shard that was made anew on the older snapshot took vectors from the parts of one of its shards, by text hash
(workers/dedup/prefill.py), and its receipt counts the rows that did: R. Let S be the shard's rows whose text occurs in
those parts. Only rows of S can have taken one, so if R = |S|, each of them did. Within a shard a text has one vector, so a
row of S has the vector of its own old row there, bit for bit.

    Remade         what receipts and manifest say of such a shard
    KnownVectors   counts S, bucket by bucket; then says of which shards it is proved

Where the counts differ, for whatever reason, vectors are compared. Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.snapshot.changes.decide import PLACE, TEXT

MOST_TEXTS = 4 << 20  # of rows without a counterpart that are remembered; with more, vectors are compared
_NONE = -1
Rows = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Remade:
    """A shard of the newer snapshot. `parts`: paths of its parts. `earlier`: of all parts of one shard of the older one.

    `reused`: its rows with a vector of those parts.
    """

    parts: frozenset[str]
    earlier: frozenset[str]
    reused: int


class KnownVectors:
    """Of one comparison. First `count` every bucket, then `look` at every bucket, then `proved`."""

    def __init__(self, shards: Sequence[Remade], old_paths: Sequence[str], new_paths: Sequence[str]) -> None:
        """Paths: of the parts that are read, in order. A shard whose earlier parts are not all read proves nothing."""
        read = frozenset(old_paths)
        self._shards = [shard for shard in shards if shard.earlier and shard.earlier <= read]
        groups: dict[frozenset[str], int] = {}
        self._group_of_shard = np.array([groups.setdefault(shard.earlier, len(groups)) for shard in self._shards], np.int64)
        group_of = {path: group for earlier, group in groups.items() for path in earlier}
        shard_of = {path: at for at, shard in enumerate(self._shards) for path in shard.parts}
        self._group_of_old = np.array([group_of.get(path, _NONE) for path in old_paths], np.int64)
        self._shard_of_new = np.array([shard_of.get(path, _NONE) for path in new_paths], np.int64)
        self._found = np.zeros(len(self._shards), np.int64)  # rows of S
        self._texts: list[Rows] = []  # [K, 3] shard and text of rows that are in S if their text occurs in `earlier`
        self._held = 0
        self._sorted = np.empty((0, 3), np.uint64)
        self._hit = np.zeros(0, np.bool_)
        self._looked = False

    def __len__(self) -> int:
        return len(self._shards)

    def own(self, old: Rows, new: Rows) -> Numbers:
        """[N] of pairs of rows with the same text: the new one's shard if the old one lies in its earlier parts, else -1."""
        if not self._shards:
            return np.full(len(new), _NONE)
        shard = self._shard_of_new[_part(new)]
        mine = (shard >= 0) & (self._group_of_shard[shard] == self._group_of_old[_part(old)])
        return np.where(mine, shard, _NONE)

    def count(self, own: Numbers, others: Rows) -> None:
        """`own`: of a bucket's pairs. `others`: the new snapshot's other rows, and those of pairs without an own shard."""
        self._found += np.bincount(own[own >= 0], minlength=len(self._shards))
        shard = self._shard_of_new[_part(others)]
        mine = shard >= 0
        self._held += int(mine.sum())
        if self._held <= MOST_TEXTS:
            self._texts.append(np.concatenate([shard[mine, None].astype(np.uint64), others[mine, TEXT]], axis=1))

    def look(self, old: Rows) -> None:
        """A bucket's rows of the older snapshot: which of the remembered texts occur in the earlier parts?"""
        if not self._looked:
            found = np.concatenate([self._sorted, *self._texts])
            self._sorted, self._texts, self._looked = found[np.argsort(found[:, 1], kind="stable")], [], True
            self._hit = np.zeros(len(found), np.bool_)
        words = self._sorted[:, 1]
        low, high = (np.searchsorted(words, old[:, TEXT][:, 0], side) for side in ("left", "right"))
        rows = np.flatnonzero(low < high)
        groups = self._group_of_old[_part(old[rows])]
        met = zip(rows.tolist(), groups.tolist(), low[rows].tolist(), high[rows].tolist(), strict=True)
        for row, group, first, stop in met:
            same = self._sorted[first:stop, 2] == old[row, TEXT][1]
            self._hit[first:stop] |= same & (self._group_of_shard[self._sorted[first:stop, 0].astype(np.int64)] == group)

    def proved(self) -> Flags:
        """[shards] whether every row of S has taken its vector."""
        if self._held > MOST_TEXTS or not self._looked:
            return np.zeros(len(self._shards), np.bool_)
        hits = self._sorted[self._hit, 0].astype(np.int64)
        found = self._found + np.bincount(hits, minlength=len(self._shards))
        proved: Flags = found == np.array([shard.reused for shard in self._shards], np.int64)
        return proved


def _part(rows: Rows) -> Numbers:
    return (rows[:, PLACE] >> np.uint64(32)).astype(np.int64)

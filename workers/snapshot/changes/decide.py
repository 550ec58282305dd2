"""What has become of each row, from the digests of two snapshots' rows. Pure: numbers in, numbers out.

    undecided   rows whose vectors decide, because their texts are the same
    decide      rows of one bucket -> Decided: what to do with rows of the new snapshot, and which of the old are deleted

A row is known by its key, (id, chunk). Of a key that both snapshots have once:

    changed     its text differs, or its vector
    patched     neither, but another column
    nothing     all is the same

A key that several rows of a snapshot share is replaced as a whole if anything about its rows differs: all its old rows are
deleted and all its new ones added. Whoever deletes by key first and adds then has the new snapshot's rows, all of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint64]
Flags = NDArray[np.bool_]
KEY, TEXT, COLUMNS, PLACE = slice(0, 2), slice(2, 4), slice(4, 6), 6
ROW_WORDS = 7  # digests of key, text and other columns, two words each; and the place: part << 32 | row
_MIXERS = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
    0xE7037ED1A0B428DB,
)


class Op(IntEnum):
    """What a reader of the old snapshot does with a row."""

    ADDED = 0
    CHANGED = 1
    PATCHED = 2
    DELETED = 3


class Decided(NamedTuple):
    """Of one bucket. Both tables: [N, 4] the row's place, its Op, and the digest of its old text (zeros: it has none)."""

    new: Rows  # added, changed, patched
    deleted: Rows
    shared_keys: int  # keys that several rows of a snapshot have


class Undecided(NamedTuple):
    """Rows of one bucket whose vectors decide."""

    old: NDArray[np.int64]  # [P] rows whose keys both snapshots have once, with the same text
    new: NDArray[np.int64]  # [P] the other row of each
    shared_old: Flags  # [N] rows of keys that several rows share, if both snapshots have them
    shared_new: Flags  # [M]


def undecided(old: Rows, new: Rows) -> Undecided:
    """`old`, `new`: [N, 7], [M, 7]."""
    found = _Keys(old, new)
    first, second = found.pairs
    same = (found.rows[first, TEXT] == found.rows[second, TEXT]).all(axis=1)
    shared = np.zeros(len(found.rows), np.bool_)
    shared[found.order] = found.is_shared_R & (found.old_G > 0)[found.key_R] & (found.new_G > 0)[found.key_R]
    ones, others = found.order[first[same]], found.order[second[same]] - len(old)
    return Undecided(ones, others, shared[: len(old)], shared[len(old) :])


def decide(old: Rows, new: Rows, old_vectors: Rows, new_vectors: Rows) -> Decided:
    """`old_vectors`, `new_vectors`: [N, 2], [M, 2] digests; equal where they were not asked for."""
    found = _Keys(old, new)
    rows, vectors = found.rows, np.concatenate([old_vectors, new_vectors])[found.order]
    alone = ~found.is_shared_R
    added = alone & found.is_new_R & (found.old_G == 0)[found.key_R]
    deleted = alone & ~found.is_new_R & (found.new_G == 0)[found.key_R]

    first, second = found.pairs
    differs = (rows[first, TEXT] != rows[second, TEXT]).any(axis=1) | (vectors[first] != vectors[second]).any(axis=1)
    patched = ~differs & (rows[first, COLUMNS] != rows[second, COLUMNS]).any(axis=1)

    replaced = found.is_shared_R & ~found.equal_sets(vectors)[found.key_R]
    added |= replaced & found.is_new_R
    deleted |= replaced & ~found.is_new_R
    told = [
        _told(rows[added], Op.ADDED, None),
        _told(rows[second[differs]], Op.CHANGED, rows[first[differs], TEXT]),
        _told(rows[second[patched]], Op.PATCHED, rows[first[patched], TEXT]),
    ]
    return Decided(np.concatenate(told), _told(rows[deleted], Op.DELETED, rows[deleted, TEXT]), int(found.shared_G.sum()))


def _told(rows: Rows, op: Op, old_texts: Rows | None) -> Rows:
    told = np.zeros((len(rows), 4), np.uint64)
    told[:, 0], told[:, 1] = rows[:, PLACE], op
    if old_texts is not None:
        told[:, 2:] = old_texts
    return told


class _Keys:
    """R rows of both snapshots, those of a key side by side, the old ones first; G keys."""

    def __init__(self, old: Rows, new: Rows) -> None:
        both = np.concatenate([old, new])
        is_new = np.arange(len(both)) >= len(old)
        self.order = np.lexsort((both[:, PLACE], is_new, both[:, 1], both[:, 0]))
        self.rows, self.is_new_R = both[self.order], is_new[self.order]
        begins = np.ones(len(both), np.bool_)
        begins[1:] = (self.rows[1:, KEY] != self.rows[:-1, KEY]).any(axis=1)
        self.starts_G = np.flatnonzero(begins)
        self.key_R = np.cumsum(begins) - 1
        self.new_G = self._sums(self.is_new_R.astype(np.int64))
        self.old_G = self._sums((~self.is_new_R).astype(np.int64))
        self.shared_G: Flags = (self.old_G > 1) | (self.new_G > 1)
        self.is_shared_R: Flags = self.shared_G[self.key_R]

    @property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of the keys that each snapshot has once: the old and the new one of each."""
        first = self.starts_G[(self.old_G == 1) & (self.new_G == 1)]
        return first, first + 1

    def equal_sets(self, vectors: Rows) -> Flags:
        """[G] whether a key's old rows are its new rows, in any order: the sums of their digests are the same."""
        content = np.concatenate([self.rows[:, TEXT], self.rows[:, COLUMNS], vectors], axis=1)
        equal: Flags = self.old_G == self.new_G
        for mixers in (_MIXERS, _MIXERS[::-1]):
            mixed = np.zeros(len(content), np.uint64)
            for word, mixer in zip(content.T, mixers, strict=True):
                mixed = _mixed((mixed ^ word) * np.uint64(mixer))
            zero = np.uint64(0)
            equal &= self._sums(np.where(self.is_new_R, mixed, zero)) == self._sums(np.where(self.is_new_R, zero, mixed))
        return equal

    def _sums(self, values_R: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(values_R, self.starts_G) if len(values_R) else values_R[:0]


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))

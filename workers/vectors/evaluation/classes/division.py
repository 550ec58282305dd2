"""Division: which labelled rows are used, and which of them train and test. It depends on each row's own content alone.

    hashed, uniform    64 bits of a text, a row or a group; a number between 0 and 1 drawn from them
    NearGroups         groups of near-duplicates: the output of `reembed dedup`
    Division           the settings; used(rows) -> UsedRows of a shard, kept by its actor
    Subset             a choice of training rows: all, those outside a fold, a share of them

A test row must not be met in training in other words of the same text: equal texts have one hash, so they stay together.
The second, random division exists to show what that would do to the figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.errors import UsageError
from workers.storage.store import Store
from workers.table.part_file import open_part, path_in_run
from workers.table.schema import CHUNK, ID, PREFIX, TEXT_HASH
from workers.table.vectors import Floats, unit_rows
from workers.vectors.evaluation.classes.labels import has_several, label_cells
from workers.vectors.shard_rows import BLOCK_ROWS, ShardRows

Keys = NDArray[np.uint64]
SAMPLE, TEST, FOLD, CURVE, QUERY, DRAWN = range(1, 7)  # one independent number of a key for each purpose
SPARSE = 8  # one used row in so many: 79 passes do not decode the other seven
BOOTSTRAP = 1 << 16  # and one for each replicate
MAIN, NAIVE = 0, 1  # divisions of the same rows: by `by`, and row by row


def hashed(keys: Keys, salt: int) -> Keys:
    """64 bits of each key and the salt: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    z = keys + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(keys: Keys, salt: int) -> NDArray[np.float64]:
    """In [0, 1), from 53 of the bits."""
    return (hashed(keys, salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def text_keys(cells: pa.ChunkedArray) -> Keys:
    """The first half of each text_hash."""
    whole = b"".join(cells.to_pylist())
    return np.frombuffer(whole, "<u8").reshape(len(cells), -1)[:, 0].astype(np.uint64)


def row_keys(rows: ShardRows) -> Keys:
    """Of each row's id, and of its chunk where there is one."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in rows.column(ID).to_pylist())
    keys = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    if CHUNK in rows.columns.column_names:
        keys = keys ^ hashed(rows.column(CHUNK).to_numpy().astype(np.uint64), CURVE)
    return keys


@dataclass(frozen=True)
class NearGroups:
    """A published output of `reembed dedup` over the snapshot `source_run_id`; its parts stand as the snapshot's do."""

    uri: str
    run_id: str
    source_run_id: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def keys(self, rows: ShardRows, texts: Keys) -> Keys:
        """[N] the group's key, or the text's where a row is in no group.

        Raises: UsageError: the output does not fit the snapshot.
        """
        store, keys = Store(self.uri, self.options), texts.copy()
        for part in rows.parts:
            path = path_in_run(part.path, self.source_run_id, rows.number, self.run_id, rows.number)
            groups = None if path is None else self._read(store, path)
            if groups is None or len(groups) != part.rows:
                raise UsageError(
                    f"evaluate.split.groups={store.uri}: {path or part.path} is missing or has other rows than the snapshot "
                    "has there; run `reembed dedup` over this snapshot again"
                )
            grouped = np.flatnonzero(groups.is_valid().to_numpy(zero_copy_only=False))
            numbers = groups.drop_null().to_numpy().astype(np.uint64)
            keys[part.first + grouped] = hashed(numbers, QUERY)
        return keys

    def _read(self, store: Store, path: str) -> pa.ChunkedArray | None:
        try:
            with open_part(store, path) as part:
                if part.footer.get(PREFIX + "source_run_id") != self.source_run_id:
                    return None
                return pa.Table.from_batches(list(part.batches(65536, ["group"]))).column("group") if part.rows else None
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class UsedRows:
    """M labelled rows of a shard, in its order."""

    positions: NDArray[np.int64]  # [M] in the shard
    codes: NDArray[np.int32]  # [M] the class; with several labels [sum of their numbers]
    offsets: NDArray[np.int64] | None  # [M + 1] into `codes`, with several labels
    keys: Keys  # [M] of what stays together
    tested: NDArray[np.bool_]  # [2, M] by the main and by the naive division
    folds: NDArray[np.int8]  # [M]
    drawn: NDArray[np.float64]  # [M] between 0 and 1, for learning curves
    division: str  # its digest

    def __len__(self) -> int:
        return len(self.positions)

    def truth(self, chosen: NDArray[np.int64], classes: int) -> Floats:
        """[len(chosen), K] 1 where the row has the label."""
        truth = np.zeros((len(chosen), classes), np.float32)
        if self.offsets is None:
            truth[np.arange(len(chosen)), self.codes[chosen]] = 1
            return truth
        starts, counts = self.offsets[chosen], np.diff(self.offsets)[chosen]
        rows = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        truth[rows, self.codes[np.repeat(starts, counts) + within]] = 1
        return truth

    def blocks(self, rows: ShardRows, *, unit: bool = False) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """(numbers into these arrays, vectors [n, D]) block by block. A small sample of the shard is kept in memory."""
        if len(self) * SPARSE <= len(rows):
            if len(self):
                kept = rows.remember(f"vectors of division {self.division}", lambda: rows.take(self.positions, unit=False))
                for first in range(0, len(self), BLOCK_ROWS):
                    vectors = kept[first : first + BLOCK_ROWS]
                    yield np.arange(first, first + len(vectors)), unit_rows(vectors) if unit else vectors
            return
        for first, vectors in rows.blocks(unit=unit):
            low, high = np.searchsorted(self.positions, [first, first + len(vectors)])
            if low < high:
                here = self.positions[low:high] - first
                yield np.arange(low, high), vectors if len(here) == len(vectors) else vectors[here]


@dataclass(frozen=True)
class Subset:
    """Training rows: of a division, without one of its folds (-1: with all), and so large a share of them."""

    split: int = MAIN
    without: int = -1
    share: float = 1.0

    def rows(self, used: UsedRows) -> NDArray[np.bool_]:
        """[M]"""
        mine = ~used.tested[self.split]
        if self.without >= 0:
            mine &= used.folds != self.without
        if self.share < 1:
            mine &= used.drawn < self.share
        return np.asarray(mine)


@dataclass(frozen=True)
class Division:
    """Every step of an evaluation has the same one. K classes."""

    label: str
    classes: tuple[str, ...]
    shares: NDArray[np.float64]  # [K] of the rows that are used; 0: none of the class
    test: float
    folds: int
    by_text: bool = True
    column: str | None = None  # says `train` or `test`
    groups: NearGroups | None = None

    def used(self, rows: ShardRows) -> UsedRows:
        """Raises: UsageError: the groups do not fit the snapshot."""
        return rows.remember(f"division {self.digest}", lambda: self._divide(rows))  # type: ignore[no-any-return]

    def tested(self, rows: ShardRows) -> NDArray[np.bool_]:
        """[N] test rows of the main division, outside of the sample too. Raises: UsageError: as used()."""
        if self.column is not None:
            return _says_test(rows.column(self.column).cast(pa.string()))
        return np.asarray(uniform(self._keys(rows, row_keys(rows)), TEST) < self.test)

    @cached_property
    def digest(self) -> str:
        """Equal for equal divisions."""
        plain = (self.label, self.classes, self.test, self.folds, self.by_text, self.column, self.groups)
        return hashlib.blake2b(repr(plain).encode() + self.shares.tobytes(), digest_size=16).hexdigest()

    def _keys(self, rows: ShardRows, single: Keys) -> Keys:
        """[N] of what stays together. `single`: of each row alone."""
        texts = text_keys(rows.column(TEXT_HASH))
        if self.groups is not None:
            return self.groups.keys(rows, texts)
        return texts if self.by_text else single

    def _divide(self, rows: ShardRows) -> UsedRows:
        cells = label_cells(rows.column(self.label))
        codes, offsets, chances = self._coded(cells)
        single = row_keys(rows)
        keys = self._keys(rows, single)
        chosen = uniform(keys, SAMPLE) < chances
        tested = np.stack([uniform(keys, TEST) < self.test, uniform(single, TEST) < self.test])
        if self.column is not None:
            said = rows.column(self.column).cast(pa.string())
            tested[:] = _says_test(said)
            chosen &= pc.is_in(said, pa.array(["train", "test"])).to_numpy()
        folds = np.floor(uniform(keys, FOLD) * self.folds).astype(np.int8)
        positions = np.flatnonzero(chosen)
        codes, offsets = _taken(codes, offsets, positions)
        drawn = uniform(keys, CURVE)[positions]
        tested, folds = tested[:, positions], folds[positions]
        return UsedRows(positions, codes, offsets, keys[positions], tested, folds, drawn, self.digest)

    def _coded(self, cells: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int64] | None, NDArray[np.float64]]:
        """Codes, offsets of lists, and [N] the share of such rows that is used: 0 for a row without a label."""
        known = pa.array(self.classes, pa.string())
        if not has_several(cells.type):
            codes = pc.index_in(cells, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
            codes[np.asarray(cells.is_null())] = -1
            return codes, None, np.where(codes >= 0, self.shares[codes], 0.0)
        lengths = pc.list_value_length(cells).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = pc.index_in(cells.flatten(), value_set=known)
        owner = np.repeat(np.arange(len(cells)), lengths)
        there = values.is_valid().to_numpy(zero_copy_only=False)
        codes, owner = values.drop_null().to_numpy().astype(np.int32), owner[there]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(cells)))]).astype(np.int64)
        chances = np.full(len(cells), self.shares[self.shares > 0].min(initial=1.0))
        np.maximum.at(chances, owner, self.shares[codes])
        chances[np.asarray(cells.is_null())] = 0
        return codes, offsets, chances


def _says_test(said: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(said, "test").fill_null(False).to_numpy(), bool)


def _taken(
    codes: NDArray[np.int32], offsets: NDArray[np.int64] | None, positions: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64] | None]:
    if offsets is None:
        return codes[positions], None
    counts = np.diff(offsets)[positions]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return codes[np.repeat(offsets[positions], counts) + within], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def stable_shares(counts: NDArray[np.int64], sample: int, least: int) -> NDArray[np.float64]:
    """[K] the share of each class's rows that is used: `sample` rows in all, but up to `least` of every class."""
    share = 1.0 if sample == 0 else min(1.0, sample / max(1, int(counts.sum())))
    return np.where(counts > 0, np.clip(np.maximum(share, least / np.maximum(counts, 1)), 0, 1), 0.0)

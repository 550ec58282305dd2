"""Compares two snapshots: which rows were added, changed, patched and deleted. `Comparison(store, old, new, folder)`.

1. scan     every part of both sides, on threads: digests of each row's key, text and other columns, in buckets by key
2. look     bucket by bucket: rows that both snapshots have with the same text
3. vectors  of these alone, digests; and not of those that the new snapshot took from the old one (reuse.py). A comparison
            reads no other embeddings
4. decide   bucket by bucket (decide.py)

Where the vectors' type, size or scale differs, all of them differ, and 3 is left out. Memory holds a bucket and six bytes
for each row of the parts that are read. The local disk holds 56 bytes for each such row, 80 where vectors are compared.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.snapshot.changes.buckets import Buckets
from workers.snapshot.changes.decide import PLACE, ROW_WORDS, Op, decide, undecided
from workers.snapshot.changes.reuse import KnownVectors, Remade
from workers.snapshot.changes.scan import part_vectors, scan_part
from workers.snapshot.changes.sides import Side, comparable
from workers.storage.store import Store

BUCKET_BYTES = 16 << 20  # of one side's rows; deciding takes a few times as much
MOST_BUCKETS = 1024
THREADS = 8
WAKE_SECONDS = 0.25  # how soon a signal is noticed
_NOTHING = 255  # in place of an Op
_LOW = np.uint64(0xFFFFFFFF)
Rows = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows, chunks counted singly. `shared_keys`: keys that several of the rows read have in one snapshot."""

    added: int
    changed: int
    patched: int
    deleted: int
    shared_keys: int


class Comparison:
    """Of two snapshots. `old` None: all rows of the new one are added. `folder`: local, empty, the caller's to remove.

    Raises, when made:
        ObjectError: a part is gone or damaged. TransientError, UsageError: the store, the local disk.
    """

    def __init__(
        self,
        store: Store,
        old: Side | None,
        new: Side,
        folder: Path,
        check: Callable[[], None] = lambda: None,
        remade: Sequence[Remade] = (),
    ) -> None:
        """`check` is called several times a second, and may raise. `remade`: shards that the new run made on the old one."""
        self._store, self._folder, self._check = store, folder, check
        self._halt = threading.Event()
        self.old, self.new = old, new
        sides = [side for side in (old, new) if side is not None]
        count = max(1, min(MOST_BUCKETS, -(-max(side.read_rows for side in sides) * ROW_WORDS * 8 // BUCKET_BYTES)))
        self._rows = {side.run_id: Buckets(folder, f"rows-{at}", count, ROW_WORDS) for at, side in enumerate(sides)}
        self._vectors = {side.run_id: Buckets(folder, f"vectors-{at}", count, 3) for at, side in enumerate(sides)}
        self._bases = {side.run_id: _bases(side) for side in sides}
        for side in sides:
            self._scan(side)
        if old is not None and comparable(old.schema, new.schema):
            known = KnownVectors(remade, [part.path for part in old.parts], [part.path for part in new.parts])
            self._compare_vectors(old, known)
        self._texts = Buckets(folder, "texts", max(1, min(256, len(new.parts))), 3)
        self._ops = np.full(new.read_rows, _NOTHING, np.uint8)
        self._gone = np.zeros(old.read_rows if old is not None else 0, np.bool_)
        self.counts = self._decide()

    def ops(self, number: int) -> NDArray[np.uint8]:
        """[rows] of a part of the new snapshot: an Op, or another number for a row that is as it was."""
        bases = self._bases[self.new.run_id]
        return self._ops[bases[number] : bases[number + 1]]

    def deleted(self, number: int) -> NDArray[np.bool_]:
        """[rows] of a part of the old snapshot."""
        bases = self._bases[self.old.run_id] if self.old is not None else np.zeros(2, np.int64)
        return self._gone[bases[number] : bases[number + 1]]

    def old_texts(self, number: int) -> Rows:
        """[K, 3] row and old text's digest of those rows of a part of the new snapshot whose text has changed, by row."""
        found = self._texts.read(int(self._text_bucket(np.array([number]))[0]))
        found = found[(found[:, 0] >> np.uint64(32)) == np.uint64(number)]
        rows: Rows = found[np.argsort(found[:, 0])]
        rows[:, 0] &= _LOW
        return rows

    def _scan(self, side: Side) -> None:
        buckets = self._rows[side.run_id]

        def scan(number: int) -> None:
            for rows in scan_part(self._store, side, number):
                buckets.append(_bucket(rows[:, 0], buckets.count), rows)
                if self._halt.is_set():
                    return

        self._on_threads(scan, range(len(side.parts)))

    def _compare_vectors(self, old: Side, known: KnownVectors) -> None:
        sides = (old, self.new)
        wanted = [np.zeros(side.read_rows, np.bool_) for side in sides]
        claimed = [np.full(side.read_rows if known else 0, -1, np.int32) for side in sides]  # shards that may prove them
        for rows in self._pairs():
            found = undecided(*rows)
            own = known.own(rows[0][found.old], rows[1][found.new])
            for side, here, pair, shared, flags, claims in zip(
                sides, rows, (found.old, found.new), (found.shared_old, found.shared_new), wanted, claimed, strict=True
            ):
                flags[self._at(side, here[shared, PLACE])] = True
                flags[self._at(side, here[pair[own < 0], PLACE])] = True
                if known:
                    claims[self._at(side, here[pair[own >= 0], PLACE])] = own[own >= 0]
            if known:
                others = np.ones(len(rows[1]), np.bool_)
                others[found.new[own >= 0]] = False
                known.count(own, rows[1][others])
        if known:
            for rows in self._pairs():
                known.look(rows[0])
            proved = known.proved()
            for flags, claims in zip(wanted, claimed, strict=True):
                flags |= (claims >= 0) & ~proved[claims]
        for side, flags in zip(sides, wanted, strict=True):
            self._digest_vectors(side, flags)

    def _digest_vectors(self, side: Side, wanted: NDArray[np.bool_]) -> None:
        buckets, bases = self._vectors[side.run_id], self._bases[side.run_id]

        def digest(number: int) -> None:
            mine = wanted[bases[number] : bases[number + 1]]
            for found in part_vectors(self._store, side, number, mine):
                buckets.append(_bucket(found.keys[:, 0], buckets.count), found.vectors)
                if self._halt.is_set():
                    return

        numbers = [number for number in range(len(side.parts)) if wanted[bases[number] : bases[number + 1]].any()]
        self._on_threads(digest, numbers)

    def _decide(self) -> Counts:
        sums = np.zeros(len(Op), np.int64)
        shared = 0
        same = self.old is not None and comparable(self.old.schema, self.new.schema)
        for number, (old, new) in enumerate(self._pairs()):
            vectors = [np.zeros((len(old), 2), np.uint64), np.full((len(new), 2), not same, np.uint64)]
            if same and self.old is not None:
                vectors = [
                    _vectors_of(rows, self._vectors[side.run_id].read(number))
                    for rows, side in ((old, self.old), (new, self.new))
                ]
            found = decide(old, new, *vectors)
            shared += found.shared_keys
            self._ops[self._at(self.new, found.new[:, 0])] = found.new[:, 1]
            if self.old is not None:
                self._gone[self._at(self.old, found.deleted[:, 0])] = True
            changed = found.new[found.new[:, 1] == Op.CHANGED][:, [0, 2, 3]]
            self._texts.append(self._text_bucket((changed[:, 0] >> np.uint64(32)).astype(np.int64)), changed)
            sums += np.bincount(np.concatenate([found.new[:, 1], found.deleted[:, 1]]).astype(np.int64), minlength=len(Op))
        added, changed_rows, patched, deleted = sums.tolist()
        return Counts(added, changed_rows, patched, deleted, shared)

    def _pairs(self) -> Iterator[tuple[Rows, Rows]]:
        """The rows of both sides, bucket by bucket."""
        new = self._rows[self.new.run_id]
        for number in range(new.count):
            self._check()
            old = self._rows[self.old.run_id].read(number) if self.old is not None else np.empty((0, ROW_WORDS), np.uint64)
            yield old, new.read(number)

    def _at(self, side: Side, places: Rows) -> NDArray[np.int64]:
        """Places -> numbers among all rows read of the side."""
        bases = self._bases[side.run_id]
        found: NDArray[np.int64] = bases[(places >> np.uint64(32)).astype(np.int64)] + (places & _LOW).astype(np.int64)
        return found

    def _text_bucket(self, parts: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = parts * self._texts.count // max(1, len(self.new.parts))
        return found

    def _on_threads(self, call: Callable[[int], None], numbers: Sequence[int]) -> None:
        """The first error is raised, one of `check` at once; calls not yet begun are dropped, the others end early."""
        pool = ThreadPoolExecutor(max(1, min(THREADS, os.cpu_count() or 1, len(numbers))), thread_name_prefix="changes")
        waiting = {pool.submit(call, number) for number in numbers}
        try:
            while waiting:
                done, waiting = wait(waiting, WAKE_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
                self._check()
        finally:
            self._halt.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._halt.clear()


def _bases(side: Side) -> NDArray[np.int64]:
    """[parts + 1] numbers of the parts' first rows."""
    return np.cumsum([0, *(part.rows for part in side.parts)], dtype=np.int64)


def _bucket(words: Rows, count: int) -> NDArray[np.int64]:
    """By the upper half of a digest's word."""
    return ((words >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def _vectors_of(rows: Rows, vectors: Rows) -> Rows:
    """[N, 2] of the rows, zeros for those whose vectors were not asked for. `vectors`: [K, 3] place and digest."""
    found = np.zeros((len(rows), 2), np.uint64)
    if not len(vectors):
        return found
    vectors = vectors[np.argsort(vectors[:, 0])]
    at = np.minimum(np.searchsorted(vectors[:, 0], rows[:, PLACE]), len(vectors) - 1)
    there = vectors[at, 0] == rows[:, PLACE]
    found[there] = vectors[at[there], 1:]
    return found

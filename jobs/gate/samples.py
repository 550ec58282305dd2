"""What the gate reads of parts: a bounded look at a snapshot's vectors, and at those of the same texts in two snapshots.

    measure_vectors    some rows of parts spread evenly over the snapshot -> length, mean, what is not finite
    compare_texts      parts of shards that were embedded now, each beside the last snapshot's parts of the same objects (or
                       of the same place, in a corpus that has moved), joined by text hash -> cosines

At most 4,096 vectors a snapshot are looked at, however large it is. Chooses parts;
workers/snapshot/sample.py reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from jobs.gate.figures import Comparison, VectorFigures
from jobs.state.stored_run import StoredRun
from workers.config import VectorType
from workers.records.shard import OutputFile
from workers.snapshot.sample import PartSample, PartUnreadable, TextKey, find_rows, sample_part
from workers.table.paths import folder_in_snapshot
from workers.table.vectors import Floats, VectorFormat, cosines

MOST_PARTS = 64  # more parts and fewer rows of each: neighbours in a corpus are alike
MOST_VECTORS = 4096
SEARCHED_VECTORS = 8192  # of one earlier part: rows inserted before a text move it down
MOST_EARLIER = 4  # parts looked at for the texts of one
LOOKED_THROUGH = 1024  # shards, evenly spread, among which parts with a counterpart are looked for
THREADS = 16
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class _Pair:
    """A part and the earlier parts that may hold vectors of its texts."""

    part: OutputFile
    earlier: tuple[OutputFile, ...]


def measure_vectors(run: StoredRun) -> tuple[VectorFigures | None, tuple[str, ...]]:
    """Figures of a sample of a run's vectors (None: no vectors), and which of the parts read are not what they should be.

    A part that is gone or of another size is left out: publishing checks that of all parts.

    Raises:
        UsageError, TransientError.
    """
    store, files, stored = run.store, run.files, run.stored
    places = set(spread(range(sum(file.rows > 0 for file in files)), MOST_PARTS))
    chosen = [file for place, file in enumerate(file for file in files if file.rows) if place in places]
    share = MOST_VECTORS // max(1, len(chosen))

    def look(file: OutputFile) -> PartSample | str | None:
        try:
            sample = sample_part(store, file, stored, share)
        except PartUnreadable as error:
            return str(error)
        if sample is not None and sample.rows_in_part != file.rows:
            return f"{store.uri_of(file.path)} holds {sample.rows_in_part} rows, its receipt says {file.rows}"
        return sample

    met = _in_threads(look, chosen)
    samples = [item for item in met if isinstance(item, PartSample)]
    vectors = [vectors_VD for sample in samples for vectors_VD in sample.vectors]
    figures = VectorFigures.of(np.concatenate(vectors)) if vectors else None
    return figures, tuple(item for item in met if isinstance(item, str))


def compare_texts(now: StoredRun, last: StoredRun) -> Comparison:
    """Cosines of texts that stand in both snapshots, of parts that were embedded in this run.

    Raises:
        UsageError, TransientError.
    """
    pairs = spread(_pairs(now, last), MOST_PARTS)
    if not pairs:
        return Comparison(note="no object that was embedded now is in the last snapshot")
    share = MOST_VECTORS // len(pairs)

    def compared(pair: _Pair) -> list[float]:
        try:
            sample = sample_part(now.store, pair.part, now.stored, share)
            if sample is None:
                return []
            fresh = dict(zip(sample.keys, sample.vectors, strict=True))
            known: dict[TextKey, Floats] = {}
            for file in pair.earlier:
                known |= find_rows(last.store, file, last.stored, fresh.keys() - known.keys(), SEARCHED_VECTORS)
        except PartUnreadable:
            return []  # measure_vectors tells of such parts; of the last snapshot it is not for this gate to tell
        return [text_cosine(fresh[key], known[key], now.stored) for key in known]

    each = [cosine for found in _in_threads(compared, pairs) for cosine in found]
    return Comparison.of(each, "no text of the sample stands in the last snapshot")


def text_cosine(now_VD: Floats, last_VD: Floats, stored: VectorFormat) -> float:
    """Of one text's vectors; of a list of vectors the mean over them, -1 where the lists differ in length."""
    if now_VD.shape != last_VD.shape:
        return -1.0
    if not len(now_VD):
        return 1.0  # a text without tokens
    return float(np.mean([of_angle(float(cosine), stored.vector) for cosine in cosines(now_VD, last_VD)]))


def of_angle(cosine: float, vector: VectorType) -> float:
    """As it is; of two vectors of signs the cosine of the angle between what they are the signs of.

    A share s of the signs differs where that angle is about s times pi (Goemans and Williamson 1995), so that one limit
    serves all types: 2% of the signs are a cosine of 0.998.
    """
    return math.cos((1 - cosine) * math.pi / 2) if vector is VectorType.BINARY else cosine


def spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many, evenly spread, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def _pairs(now: StoredRun, last: StoredRun) -> list[_Pair]:
    """Each part of some shards that were embedded, with the parts of the same partition of earlier shards that overlap it.

    Where none does, perhaps because the corpus has another name now, of the earlier shard in the same place.
    """
    looked = [(place, now.shards[place]) for place in spread(range(len(now.shards)), LOOKED_THROUGH)]
    wanted = {piece.uri for _, shard in looked for piece in shard.slices}
    where: dict[str, list[tuple[int, int, int]]] = {}
    for shard in last.shards:
        for piece in shard.slices:
            if piece.uri in wanted:
                where.setdefault(piece.uri, []).append((piece.start, piece.stop, shard.number))
    pairs = []
    for place, shard in looked:
        receipt = now.receipts.get(shard.number)
        if receipt is None or receipt.carried_from is not None:
            continue
        numbers = {
            number
            for piece in shard.slices
            for start, stop, number in where.get(piece.uri, ())
            if start < piece.stop and piece.start < stop
        }
        if not numbers and last.shards:
            numbers = {last.shards[place * len(last.shards) // len(now.shards)].number}
        earlier = [file for number in sorted(numbers & last.receipts.keys()) for file in last.receipts[number].files]
        for part in receipt.files:
            same = tuple(file for file in earlier if folder_in_snapshot(file.path) == folder_in_snapshot(part.path))
            if same:
                pairs.append(_Pair(part, same[:MOST_EARLIER]))
    return pairs


def _in_threads(call: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, items))

"""The samples that the gate reads: some vectors of a snapshot, and vectors of the same texts in two snapshots.

    measure_vectors    some rows of parts spread evenly over the snapshot -> norm, mean, distance of pairs, not finite ones
    measure_agreement  the same rows: other columns of vectors beside the one that they are made of -> cosines
    compare_texts      parts of this run's embedded shards and the last snapshot's parts of the same objects (or of the same
                       position, in a corpus that has moved), joined by text hash -> cosines

At most 4,096 vectors of a snapshot are read, however large it is. This file chooses the parts; workers/snapshot/sample.py
reads them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from jobs.publish.gate.figures import Comparison, VectorFigures
from jobs.state.stored_run import StoredRun
from workers.config import VectorType
from workers.records.shard import OutputFile
from workers.snapshot.sample import PartSample, PartUnreadable, TextKey, find_rows, sample_part
from workers.table.paths import folder_in_snapshot
from workers.table.representations import exact_first
from workers.table.vectors import Floats, VectorFormat, cosines

MOST_PARTS = 64  # many parts, and few rows of each, because neighbouring documents are similar
MOST_VECTORS = 4096
SEARCHED_VECTORS = 8192  # of one earlier part: inserted rows move later texts down
MOST_SPARSE, SEARCHED_SPARSE = 256, 1024  # of sparse vectors, whose zeros are in memory too: 30 MB for 30,522 words
MOST_EARLIER = 4  # earlier parts searched for the texts of one part
LOOKED_THROUGH = 1024  # shards, evenly spread, in which parts with a counterpart are searched
THREADS = 16
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class _Pair:
    """A part and the earlier parts that may hold vectors of its texts."""

    part: OutputFile
    earlier: tuple[OutputFile, ...]


def measure_vectors(run: StoredRun) -> tuple[VectorFigures | None, tuple[str, ...]]:
    """Figures of a sample of a run's vectors (None: no vectors), and the parts read that differ from their receipts.

    Missing parts and parts of another size are left out: publishing checks all parts for that.

    Raises:
        UsageError, TransientError.
    """
    store, stored = run.store, run.stored
    chosen = _sampled(run)
    share = _share(stored, len(chosen))

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
    texts = len({key for sample in samples for key in sample.keys})
    figures = VectorFigures.of(np.concatenate(vectors), texts) if vectors else None
    if figures is not None and figures.pair_distance is not None:
        distance = 1 - of_angle(1 - figures.pair_distance, stored.vector) - _rounding(figures, stored)
        figures = dataclasses.replace(figures, pair_distance=max(0.0, distance))
    return figures, tuple(item for item in met if isinstance(item, str))


def measure_agreement(run: StoredRun) -> dict[str, float]:
    """Least cosine of each column of vectors beside the main one to what the most exact column says it should be.

    The first components of both are compared, as many as both have; where one is binary, the signs. Rounding apart all are
    made of the same numbers, so a lower cosine is a column of other rows. -1: not the same number of vectors.

    Raises:
        UsageError, TransientError.
    """
    chosen, formats = _sampled(run), run.formats
    share = MOST_VECTORS // max(1, len(chosen))
    source = exact_first(formats)
    others = [form for form in formats if form != source]

    def look(file: OutputFile) -> dict[str, float]:
        try:
            samples = {form.column: sample_part(run.store, file, form, share) for form in formats}
        except PartUnreadable:
            return {}  # measure_vectors reports such parts
        drawn = {column: _joined(sample) for column, sample in samples.items() if sample is not None}
        return {
            form.column: _least_cosine(drawn[form.column], form, drawn[source.column], source)
            for form in others
            if form.column in drawn and source.column in drawn
        }

    found: dict[str, float] = {}
    for cosine_of in _in_threads(look, chosen):
        for column, cosine in cosine_of.items():
            found[column] = min(cosine, found.get(column, 1.0))
    return found


def _joined(sample: PartSample) -> Floats:
    return np.concatenate(sample.vectors) if sample.vectors else np.empty((0, 0), np.float32)


def _least_cosine(one_ND: Floats, one: VectorFormat, other_NE: Floats, other: VectorFormat) -> float:
    if len(one_ND) != len(other_NE):
        return -1.0
    if not len(one_ND):
        return 1.0
    dim = min(one.dim, other.dim)
    pair = [one_ND[:, :dim], other_NE[:, :dim]]
    if VectorType.BINARY in (one.vector, other.vector):
        pair = [np.where(vectors > 0, np.float32(1), np.float32(-1)) for vectors in pair]
    return float(np.nan_to_num(cosines(*pair), nan=-1.0).min())


def _share(stored: VectorFormat, parts: int) -> int:
    """Vectors to read of each of so many parts."""
    return max(1, (MOST_SPARSE if stored.sparse else MOST_VECTORS) // max(1, parts))


def _sampled(run: StoredRun) -> list[OutputFile]:
    """Parts with rows, spread evenly."""
    files = run.files
    places = set(spread(range(sum(file.rows > 0 for file in files)), MOST_PARTS))
    return [file for place, file in enumerate(file for file in files if file.rows) if place in places]


def _rounding(figures: VectorFigures, stored: VectorFormat) -> float:
    """The cosine distance that rounding to int8 puts between two equal vectors at most: D components, each rounded by an
    error of variance scale^2 / 12, so |e1 - e2|^2 / 2 = D scale^2 / 12, in units of the squared length."""
    if stored.vector is not VectorType.INT8 or stored.int8_scale is None or not figures.mean_length:
        return 0.0
    return len(figures.mean_D) * stored.int8_scale**2 / 12 / figures.mean_length**2


def compare_texts(now: StoredRun, last: StoredRun) -> Comparison:
    """Cosines of texts that both snapshots hold, from parts that this run embedded.

    Raises:
        UsageError, TransientError.
    """
    pairs = spread(_pairs(now, last), MOST_PARTS)
    if not pairs:
        return Comparison(note="no object that was embedded now is in the last snapshot")
    share = _share(now.stored, len(pairs))
    searched = SEARCHED_SPARSE if now.stored.sparse else SEARCHED_VECTORS

    def compared(pair: _Pair) -> list[float]:
        try:
            sample = sample_part(now.store, pair.part, now.stored, share)
            if sample is None:
                return []
            fresh = dict(zip(sample.keys, sample.vectors, strict=True))
            known: dict[TextKey, Floats] = {}
            for file in pair.earlier:
                known |= find_rows(last.store, file, last.stored, fresh.keys() - known.keys(), searched)
        except PartUnreadable:
            return []  # measure_vectors reports such parts of this run; the gate does not report those of the last snapshot
        return [text_cosine(fresh[key], known[key], now.stored) for key in known]

    each = [cosine for found in _in_threads(compared, pairs) for cosine in found]
    return Comparison.of(each, "no text of the sample stands in the last snapshot")


def text_cosine(now_VD: Floats, last_VD: Floats, stored: VectorFormat) -> float:
    """Cosine of one text's vectors; for lists of vectors the mean over them, -1 if the lists differ in length."""
    if now_VD.shape != last_VD.shape:
        return -1.0
    if not len(now_VD):
        return 1.0  # a text without tokens
    return float(np.mean([of_angle(float(cosine), stored.vector) for cosine in cosines(now_VD, last_VD)]))


def of_angle(cosine: float, vector: VectorType) -> float:
    """The cosine; for binary vectors the estimated cosine of the original vectors.

    A share s of the signs differs if the angle between the vectors is about s times pi (Goemans and Williamson 1995), so one
    limit serves all types: 2% of the signs correspond to a cosine of 0.998.
    """
    return math.cos((1 - cosine) * math.pi / 2) if vector is VectorType.BINARY else cosine


def spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most that many items, evenly spread, including the first."""
    if len(items) <= most:
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def _pairs(now: StoredRun, last: StoredRun) -> list[_Pair]:
    """Each part of some embedded shards, with the parts of the same partition of earlier shards that overlap it.

    If none overlaps, perhaps because the corpus was renamed, with those of the earlier shard at the same position.
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

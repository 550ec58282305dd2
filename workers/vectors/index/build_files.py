"""The pass that builds the files of an index, and asks each of them what its recall is on the way.

    BuildFiles     a pass: the files of a shard, put into the run's scratch folder; neighbours of the questions
    Neighbours     joins the answers: the nearest of all shards
    recall         share of the exact neighbours that were found

Questions are vectors of the snapshot. They are asked before they are added themselves, so each is truly held out, and the
index is built once. A finished shard's answer lies in the scratch folder beside its files: whoever is killed builds it no
second time.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.records.shard import shard_name
from workers.table.schema import TEXT_HASH
from workers.table.vectors import Floats
from workers.vectors.index.held_out import Questions, vector_offsets
from workers.vectors.index.index_file import IndexShape, Keys, add, build, keys_of, nearest, row_of_key
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Partial, Step
from workers.vectors.workplace import Workplace

K = 10  # recall@10
CANDIDATES = 2 * K  # asked of every file, as a search asks for twice as many as it shows
EXPANSIONS = (32, 64, 128, 256)  # candidates looked at in a search: the recall of each is measured
_TIE = 1e-5  # cosines that differ by less are equal: a copy found instead of its twin is no miss
_ASKED_AT_ONCE = 64  # queries whose candidates are decoded together


@dataclass(frozen=True)
class BuildFiles(Step):
    """Files of at most `rows_per_file` vectors; a row's vectors are never divided."""

    shape: IndexShape
    rows_per_file: int
    questions: Questions
    columns: tuple[str, ...] = (TEXT_HASH,)

    def of_shard(self, rows: ShardRows) -> Partial:
        scratch = _Scratch(rows, self)
        known = scratch.answer()
        if known is not None:
            return known
        held = np.sort(self.questions.places[self.questions.shards == rows.number])
        found: list[Partial] = [_nothing_found(len(self.questions.vectors))]
        facts = []
        for piece, (first_row, stop_row) in enumerate(self.cuts(rows)):
            index, answers = self._file(rows, first_row, stop_row, held)
            found = [_joined((*found, answers), ("told", "exact", "ids"), CANDIDATES)]
            size, digest = scratch.keep(piece, index)
            facts.append((rows.number, piece, first_row, stop_row - first_row, len(index), size, digest))
        answer = _nearest_exactly(rows, self.questions.vectors, held) | found[0] | _table(facts)
        scratch.keep_answer(answer)
        return answer

    def build_again(self, rows: ShardRows, piece: int) -> Any:
        """The index of one file, as it was built in this pass."""
        held = np.sort(self.questions.places[self.questions.shards == rows.number])
        return self._file(rows, *self.cuts(rows)[piece], held, ask=False)[0]

    def combiner(self) -> Combiner:
        return Neighbours()

    def cuts(self, rows: ShardRows) -> list[tuple[int, int]]:
        """(first row, row after the last) of each file."""
        offsets = vector_offsets(rows)
        files = max(1, -(-int(offsets[-1]) // self.rows_per_file))
        starts = np.arange(files) * offsets[-1] // files
        ends = [int(row) for row in np.unique([*np.searchsorted(offsets[:-1], starts), len(offsets) - 1])]
        return list(itertools.pairwise(ends))

    def _file(
        self, rows: ShardRows, first_row: int, stop_row: int, held: NDArray[np.int64], *, ask: bool = True
    ) -> tuple[Any, Partial]:
        """The index, and what it found before the questions were added."""
        offsets = vector_offsets(rows)
        first, stop = int(offsets[first_row]), int(offsets[stop_row])
        keys = _keys(offsets, self.shape.tokens)
        held = held[(held >= first) & (held < stop)]
        index = build(self.shape, _without(rows, keys, first, stop, held))
        answers = self._ask(rows, index, offsets) if ask else {}
        if len(held):
            add(index, keys[held], rows.take(held, unit=True))
        return index, answers

    def _ask(self, rows: ShardRows, index: Any, offsets: NDArray[np.int64]) -> Partial:
        """[E, Q, C] `ids`, `told` (the index's own cosines) and `exact` ones."""
        queries = self.questions.vectors
        answers: dict[str, list[NDArray[Any]]] = {"ids": [], "told": [], "exact": []}
        for expansion in EXPANSIONS:
            keys, told = nearest(index, queries, CANDIDATES, expansion)
            there = told > -np.inf
            places = np.zeros(keys.shape, np.int64)
            places[there] = _places(keys[there], offsets, self.shape.tokens)
            answers["told"].append(told)
            answers["ids"].append(np.where(there, _id(rows.number, places), np.int64(-1)))
            answers["exact"].append(np.where(there, _cosines(rows, places, queries), np.float32(-np.inf)))
        return {name: np.stack(cells) for name, cells in answers.items()}


class Neighbours(Combiner):
    """The nearest over all shards: of those found the CANDIDATES best by the index's own cosines."""

    def __init__(self) -> None:
        self._kept: Partial = {}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        if not self._kept:
            self._kept = {name: np.asarray(value) for name, value in partial.items()}
            return
        both = (self._kept, partial)
        kept: Partial = {name: np.concatenate([one[name] for one in both]) for name in partial if name.startswith("file_")}
        kept |= _joined(both, ("true", "true_ids"), K)
        kept |= _joined(both, ("told", "exact", "ids"), CANDIDATES)
        self._kept = kept

    def result(self) -> Partial:
        return self._kept


def recall(answer: Mapping[str, NDArray[Any]]) -> dict[int, float]:
    """Recall@10 by expansion: of the cosines found, the share that is as high as the lowest of the exact ten."""
    true = np.sort(answer["true"], axis=-1)[:, ::-1][:, :K]
    shares = {}
    for expansion, found in zip(EXPANSIONS, answer["exact"], strict=True):
        best = np.sort(found, axis=-1)[:, ::-1][:, :K]
        there = np.isfinite(true)
        lowest = np.where(there, true, np.inf).min(axis=1, initial=np.inf)[:, None]
        hits = np.minimum((np.isfinite(best) & (best >= lowest - _TIE)).sum(axis=1), there.sum(axis=1))
        shares[expansion] = float(hits.sum() / max(1, there.sum()))
    return shares


def _joined(both: tuple[Mapping[str, NDArray[Any]], ...], names: tuple[str, ...], count: int) -> Partial:
    """Best first by the first of `names`; of equal ones those of the earlier shard."""
    joined = {name: np.concatenate([one[name] for one in both], axis=-1) for name in names}
    order = np.argsort(-joined[names[0]], axis=-1, kind="stable")[..., :count]
    return {name: np.take_along_axis(value, order, axis=-1) for name, value in joined.items()}


def _nothing_found(queries: int) -> Partial:
    empty = np.empty((len(EXPANSIONS), queries, 0), np.float32)
    return {"told": empty, "exact": empty, "ids": empty.astype(np.int64)}


def _cosines(rows: ShardRows, places: NDArray[np.int64], queries: Floats) -> Floats:
    """[Q, C] of each query to the vectors at its places, computed from the stored vectors."""
    cosines = np.empty(places.shape, np.float32)
    for at in range(0, len(queries), _ASKED_AT_ONCE):
        mine = slice(at, at + _ASKED_AT_ONCE)
        needed, where = np.unique(places[mine], return_inverse=True)
        vectors = rows.take(needed, unit=True)[where.reshape(places[mine].shape)]
        cosines[mine] = np.einsum("qcd,qd->qc", vectors, queries[mine])
    return cosines


def _nearest_exactly(rows: ShardRows, queries: Floats, held: NDArray[np.int64]) -> Partial:
    """[Q, <= K] cosines and ids of the nearest vectors of the shard, but for those held out."""
    best: Partial = {"true": np.empty((len(queries), 0), np.float32), "true_ids": np.empty((len(queries), 0), np.int64)}
    for first, block in rows.blocks(unit=True):
        scores = queries @ block.T
        scores[:, held[(held >= first) & (held < first + len(block))] - first] = -np.inf
        top = np.argpartition(-scores, K, axis=1)[:, :K] if scores.shape[1] > K else np.argsort(-scores, axis=1)
        here = {"true": np.take_along_axis(scores, top, axis=1), "true_ids": _id(rows.number, top + first)}
        best = _joined((best, here), ("true", "true_ids"), K)
    return best


def _without(rows: ShardRows, keys: Keys, first: int, stop: int, held: NDArray[np.int64]) -> Iterator[tuple[Keys, Floats]]:
    """Vectors `first` to `stop` of the shard, but for those held out."""
    for at, block in rows.blocks(unit=True):
        places = np.arange(max(at, first), min(at + len(block), stop))
        places = places[~np.isin(places, held)]
        if len(places):
            yield keys[places], block[places - at]


def _keys(offsets: NDArray[np.int64], tokens: bool) -> Keys:
    """[V] of all vectors of a shard."""
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(counts)), counts)
    return keys_of(row, np.arange(int(offsets[-1])) - offsets[row] if tokens else None)


def _places(keys: Keys, offsets: NDArray[np.int64], tokens: bool) -> NDArray[np.int64]:
    """Number of each key's vector within the shard."""
    first = offsets[row_of_key(keys, tokens=tokens)]
    return first + (keys & np.uint64(0xFFFF)).astype(np.int64) if tokens else first


def _id(shard: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    return (np.int64(shard) << np.int64(36)) + places


def _table(facts: list[tuple[Any, ...]]) -> Partial:
    """Facts of files, one row each: `file_shard`, `file_piece`, ..."""
    columns: list[Any] = list(zip(*facts, strict=True)) if facts else [()] * 7
    names = ("shard", "piece", "first_row", "rows", "vectors", "bytes")
    table: Partial = {f"file_{name}": np.array(column, np.int64) for name, column in zip(names, columns[:6], strict=True)}
    digests = [np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in columns[6]]
    table["file_sha256"] = np.stack(digests) if digests else np.empty((0, 32), np.uint8)
    return table


class _Scratch:
    """Finished files of a shard, and the answer, in the run's scratch folder; the files stay on the local disk as well."""

    def __init__(self, rows: ShardRows, step: BuildFiles) -> None:
        self._rows = rows
        self._workplace = rows.workplace
        asked = hashlib.sha256(f"{step.shape} {step.rows_per_file}".encode() + step.questions.vectors.tobytes()).hexdigest()
        self._answer = f"{self._workplace.scratch}/index/{shard_name(rows.number)}-{asked[:16]}.npz"

    def answer(self) -> Partial | None:
        try:
            data = self._workplace.output.read(self._answer)
        except FileNotFoundError:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return dict(stored)

    def keep(self, piece: int, index: Any) -> tuple[int, str]:
        """(bytes, SHA-256) of the file."""
        local = local_file(self._workplace, self._rows.number, piece)
        index.save(str(local))
        with local.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        path = scratch_file(self._workplace, self._rows.number, piece)
        if not self._workplace.output.put_file_if_absent(path, local):  # of an attempt killed before its answer
            self._workplace.output.put(path, local.read_bytes())
        return local.stat().st_size, digest

    def keep_answer(self, answer: Partial) -> None:
        stream = io.BytesIO()
        np.savez(stream, **answer)  # type: ignore[arg-type]
        self._workplace.output.put(self._answer, stream.getvalue())


def local_file(workplace: Workplace, shard: int, piece: int) -> Path:
    return workplace.folder / f"index-{shard_name(shard)}-{piece}.usearch"


def scratch_file(workplace: Workplace, shard: int, piece: int) -> str:
    return f"{workplace.scratch}/index/{shard_name(shard)}-{piece}.usearch"

"""Exact search for many queries: two passes, and no vector leaves its shard.

    NearestTexts    each shard answers its best texts of every query, by float32 products of blocks; Best merges them
    ScoredTexts     each shard scores those of the merged list that it holds once more, row by row in float64

A product of matrices has last bits that depend on the shape of its block, so equal vectors may differ there. The second pass
makes scores a function of the two vectors alone: equal texts have equal scores, in whatever shard they are. The first pass
keeps MARGIN texts more than are asked for, so that its last bits do not decide which texts are.

A text's score is the best of its rows. Axes: Q queries, K texts kept of each, D components, M pairs of query and text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.table.schema import ID, TEXT_HASH
from workers.table.vectors import Floats
from workers.vectors.retrieval.texts import Keys, Texts, halves, joined, texts_of
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Combiner, Concatenation, Partial, Step

MARGIN = 28  # texts beyond those asked for that the first pass keeps
QUERY_BLOCK = 512  # queries of one product: 8 MB of scores with a block of 4,096 rows; fixed, as the bits depend on it
PAIR_BLOCK = 4096  # pairs scored at a time
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio
MOST_QUERIES = 16_384  # of one pass: its answers are 40 MB at 128 texts a query


@dataclass(frozen=True)
class NearestTexts(Step):
    """The `keep` texts nearest to each query, approximately ordered. Partial: scores, high and low [Q, K] (Best)."""

    queries: Floats  # [Q, D] of unit length
    keep: int
    columns = (TEXT_HASH,)

    def of_shard(self, rows: ShardRows) -> Partial:
        texts = texts_of(rows)
        high, low = halves(texts.keys)
        best = Best(len(self.queries), self.keep)
        for first, block in rows.blocks(unit=True):
            text_of_column = texts.text_of_row[first : first + len(block)]
            copies = _copies(text_of_column)
            met_before = texts.rows[texts.starts[text_of_column]] < first
            for at in range(0, len(self.queries), QUERY_BLOCK):
                scores = self.queries[at : at + QUERY_BLOCK] @ block.T
                copies.leave_the_best(scores)
                found, column = _largest(scores, best.least(at, len(scores)), self.keep)
                text = text_of_column[column]
                best.offer(at + found, scores[found, column], high[text], low[text], distinct=not met_before[column].any())
        return best.partial()

    def combiner(self) -> Combiner:
        return BestOfAll(self.keep)


@dataclass(frozen=True)
class ScoredTexts(Step):
    """The cosine of each pair of a query and a text, float64 rounded to float32.

    Partial, concatenated over shards: `pair` and `score` of the pairs whose text the shard holds; `text` and `id`: the
    smallest id of each such text.
    """

    queries: Floats  # [Q, D]
    query: NDArray[np.int64]  # [M] of each pair
    text: NDArray[np.int64]  # [M] of each pair: its place in `keys`
    keys: Keys  # distinct, ascending
    columns = (TEXT_HASH, ID)

    def of_shard(self, rows: ShardRows) -> Partial:
        texts = texts_of(rows)
        place = np.minimum(np.searchsorted(texts.keys, self.keys), max(len(texts.keys) - 1, 0))
        held = texts.keys[place] == self.keys if len(texts.keys) else np.zeros(len(self.keys), bool)
        pair = np.flatnonzero(held[self.text])
        scores = [self._scores(rows, texts, place, pair[at : at + PAIR_BLOCK]) for at in range(0, len(pair), PAIR_BLOCK)]
        here = np.flatnonzero(held)
        ids = rows.column(ID).to_pylist()
        names = [min(str(ids[row]) for row in _rows(texts, text)) for text in place[here]]
        return {
            "pair": pair,
            "score": np.concatenate(scores) if scores else np.zeros(0, np.float32),
            "text": here,
            "id": np.array(names, dtype=np.str_) if names else np.zeros(0, dtype="U1"),
        }

    def combiner(self) -> Combiner:
        return Concatenation()

    def _scores(
        self, rows: ShardRows, texts: Texts, place: NDArray[np.int64], pairs: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        of_pair = [_rows(texts, text) for text in place[self.text[pairs]]]
        counts = [len(found) for found in of_pair]
        used, at = np.unique(np.concatenate(of_pair), return_inverse=True)
        vectors = unit64(rows.take(used, unit=False))[at]
        products = (vectors * unit64(self.queries[np.repeat(self.query[pairs], counts)])).sum(axis=1)
        starts = (np.cumsum(counts) - counts).tolist()
        scores: NDArray[np.float32] = np.maximum.reduceat(products, starts).astype(np.float32)
        return scores

    def chosen(self, partial: Partial, depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.str_]]:
        """Of what all shards answered: the best `depth` texts of each query, as trec_eval orders them.

        That is by score, and equal scores by id, descending. Returns (places in `keys` [Q, depth], -1 where there is no
        text; scores [Q, depth]; id of each of `keys`).
        """
        score = np.full(len(self.query), -np.inf, np.float32)
        np.maximum.at(score, partial["pair"], partial["score"])
        ids = _smallest(len(self.keys), partial["text"], partial["id"])
        rank_of_id = np.argsort(np.argsort(ids))
        order = np.lexsort((-rank_of_id[self.text], -score, self.query))
        place = rank_in_group(self.query[order])
        order, place = order[place < depth], place[place < depth]
        texts = np.full((len(self.queries), depth), -1, np.int64)
        scores = np.full((len(self.queries), depth), -np.inf, np.float32)
        texts[self.query[order], place], scores[self.query[order], place] = self.text[order], score[order]
        return texts, scores, ids


def pairs_to_score(queries: Floats, nearest: Partial) -> ScoredTexts:
    """The second pass for what the first one found."""
    query, slot = np.nonzero(np.isfinite(nearest["scores"]))
    keys, text = np.unique(joined(nearest["high"][query, slot], nearest["low"][query, slot]), return_inverse=True)
    return ScoredTexts(queries, query.astype(np.int64), text.astype(np.int64), keys)


class Best:
    """The best K texts of each of Q queries so far, by score. Rows without so many texts end in -inf."""

    def __init__(self, queries: int, keep: int) -> None:
        self._keep = keep
        self._scores = np.full((queries, keep), -np.inf, np.float32)
        self._high = np.zeros((queries, keep), np.uint64)
        self._low = np.zeros((queries, keep), np.uint64)

    def least(self, first: int, count: int) -> NDArray[np.float32]:
        """[count] score that a text must reach to be of use, for queries from `first` on."""
        return self._scores[first : first + count, -1]

    def offer(
        self,
        query: NDArray[np.int64],
        score: NDArray[np.float32],
        high: NDArray[np.uint64],
        low: NDArray[np.uint64],
        *,
        distinct: bool,
    ) -> None:
        """Further texts, one an entry. `distinct`: none was offered before or is twice among them, which takes less time."""
        useful = (score >= self._scores[query, -1]) & np.isfinite(score)
        if not useful.any():
            return
        query, score, high, low = query[useful], score[useful], high[useful], low[useful]
        touched = np.unique(query)
        known, slot = np.nonzero(np.isfinite(self._scores[touched]))
        before = touched[known]
        query = np.concatenate([before, query])
        score = np.concatenate([self._scores[before, slot], score])
        high = np.concatenate([self._high[before, slot], high])
        low = np.concatenate([self._low[before, slot], low])
        if not distinct:
            mixed = high ^ (query.astype(np.uint64) * MIX)  # one key to sort by instead of three
            order = np.lexsort((-score, mixed))
            query, score, high, low = query[order], score[order], high[order], low[order]
            again = (query[1:] == query[:-1]) & (high[1:] == high[:-1]) & (low[1:] == low[:-1])
            first = np.concatenate([[True], ~again])
            query, score, high, low = query[first], score[first], high[first], low[first]
        order = np.lexsort((-score, query))
        place = rank_in_group(query[order])
        order, place = order[place < self._keep], place[place < self._keep]
        self._scores[touched] = -np.inf
        at = (query[order], place)
        self._scores[at], self._high[at], self._low[at] = score[order], high[order], low[order]

    def partial(self) -> Partial:
        return {"scores": self._scores, "high": self._high, "low": self._low}


class BestOfAll(Combiner):
    """Merges what shards answered to NearestTexts."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._best: Best | None = None

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        scores = partial["scores"]
        self._best = self._best or Best(len(scores), self._keep)
        query, slot = np.nonzero(np.isfinite(scores))
        found = (query, slot)
        self._best.offer(
            query.astype(np.int64), scores[found], partial["high"][found], partial["low"][found], distinct=False
        )

    def result(self) -> Partial:
        return self._best.partial() if self._best is not None else {}


def rank_in_group(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... within each run of equal numbers."""
    if not len(group):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    counts = np.diff(np.append(starts, len(group)))
    ranks: NDArray[np.int64] = np.arange(len(group)) - np.repeat(starts, counts)
    return ranks


def unit64(vectors: Floats) -> NDArray[np.float64]:
    """Each row divided by its length, in float64; zeros stay zeros."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = wide / np.maximum(lengths, np.finfo(np.float64).tiny)
    return unit


@dataclass(frozen=True, slots=True)
class _Copies:
    """Columns of a block that hold one text: `columns`, text after text, each from `starts` on."""

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]

    def leave_the_best(self, scores: Floats) -> None:
        """In place: the first column of a text gets its best score, the others -inf."""
        if len(self.starts):
            best = np.maximum.reduceat(scores[:, self.columns], self.starts.tolist(), axis=1)
            scores[:, self.columns] = -np.inf
            scores[:, self.columns[self.starts]] = best


def _copies(text_of_column: NDArray[np.int64]) -> _Copies:
    order = np.argsort(text_of_column, kind="stable")
    text = text_of_column[order]
    counts = np.unique(text, return_counts=True)[1]
    several = np.repeat(counts > 1, counts)
    kept = counts[counts > 1]
    return _Copies(order[several].astype(np.int64), (np.cumsum(kept) - kept).astype(np.int64))


def _largest(scores: Floats, least: NDArray[np.float32], keep: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, column) of scores that may be among the `keep` best: at least `least`, and of the block's own `keep` best."""
    threshold = least
    if scores.shape[1] > keep and np.isneginf(least).any():
        own = np.partition(scores, scores.shape[1] - keep, axis=1)[:, scores.shape[1] - keep]
        threshold = np.maximum(least, own)
    found, column = np.nonzero(scores >= threshold[:, None])
    useful = np.isfinite(scores[found, column])  # not of copies
    found, column = found[useful], column[useful]
    return found.astype(np.int64), column.astype(np.int64)


def _rows(texts: Texts, text: np.int64) -> NDArray[np.int64]:
    return texts.rows[texts.starts[text] : texts.starts[text + 1]]


def _smallest(count: int, place: NDArray[np.int64], ids: NDArray[np.str_]) -> NDArray[np.str_]:
    """[count] the smallest of the ids given for each place."""
    order = np.lexsort((ids, place))
    first = rank_in_group(place[order]) == 0
    smallest = np.zeros(count, dtype=ids.dtype)
    smallest[place[order][first]] = ids[order][first]
    return smallest

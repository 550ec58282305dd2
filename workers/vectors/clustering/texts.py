"""Texts of sampled rows, read from the corpus again: their words are counted, and the beginnings of examples kept.

Unit n is one shard of the corpus. Rows and texts are joined by the text's hash within the shard, so a corpus that has
changed since gives fewer texts and never those of other rows. Memory is bounded by the sample, not by the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.errors import ObjectError, UsageError
from workers.reading.reader import read_windows
from workers.records.digests import hash_texts
from workers.records.documents import TEXT, ReadPlan
from workers.records.shard import Shard
from workers.vectors.clustering.description import WHOLE_TEXT
from workers.vectors.clustering.words import words_of
from workers.vectors.step import Combiner, Partial, UnitStep
from workers.vectors.workplace import Workplace

EXAMPLE_CHARACTERS = 200
NO_EXAMPLE = -1


@dataclass(frozen=True)
class SampledRows:
    """Rows [S] in order of shards; `borders` [units + 1] where each unit's begin.

    `text`: first 8 bytes of the text's hash. `start`, `end`: of the chunk within the text. `example`: its number, or
    NO_EXAMPLE where the row is of the sample for words.
    """

    text: NDArray[np.uint64]
    place: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    example: NDArray[np.int64]
    borders: NDArray[np.int64]


@dataclass(frozen=True)
class ReadTexts(UnitStep):
    """`excluded`: of each shard the objects that the source's run could not read."""

    plan: ReadPlan
    shards: tuple[Shard, ...]
    excluded: tuple[tuple[str, ...], ...]
    rows: SampledRows
    clusters: int

    def of_unit(self, unit: int, workplace: Workplace) -> Partial:  # noqa: ARG002 - the corpus is in neither of its stores
        first, end = int(self.rows.borders[unit]), int(self.rows.borders[unit + 1])
        wanted: dict[int, list[int]] = {}
        for row in range(first, end):
            wanted.setdefault(int(self.rows.text[row]), []).append(row)
        there = np.array(sorted(wanted), np.uint64)
        counts: Counter[tuple[str, int]] = Counter()
        texts = np.zeros(self.clusters, np.int64)
        examples: dict[int, str] = {}
        failed = ""
        try:
            for window in read_windows(self.shards[unit], self.plan, dict.fromkeys(self.excluded[unit], "excluded")):
                column = window.table[TEXT].combine_chunks()
                hashes = np.frombuffer(hash_texts(column).tobytes(), np.uint64).reshape(-1, 2)[:, 0]
                for place in np.flatnonzero(np.isin(hashes, there)):
                    for row in wanted.pop(int(hashes[place]), ()):  # a text that stands there again is not counted again
                        self._take(row, column[int(place)].as_py(), counts, texts, examples)
        except (ObjectError, UsageError) as error:  # gone, replaced, refused: the clusters need no texts
            failed = str(error)
        words = sorted({word for word, _ in counts})
        number = {word: at for at, word in enumerate(words)}
        entries = sorted((number[word], place, count) for (word, place), count in counts.items())
        table = np.array(entries, np.int64).reshape(-1, 3)
        return {
            "words": np.array(words, np.str_) if words else np.empty(0, "<U1"),
            "word": table[:, 0],
            "place": table[:, 1],
            "count": table[:, 2],
            "texts": texts,
            "missing": np.array(sum(map(len, wanted.values()))),
            "example": np.array(sorted(examples), np.int64),
            "beginning": np.array([examples[at] for at in sorted(examples)]) if examples else np.empty(0, "<U1"),
            "failed": np.array([failed]) if failed else np.empty(0, "<U1"),
        }

    def _take(
        self, row: int, text: str, counts: Counter[tuple[str, int]], texts: NDArray[np.int64], examples: dict[int, str]
    ) -> None:
        rows = self.rows
        if rows.start[row] != WHOLE_TEXT:
            text = text[rows.start[row] : rows.end[row]]
        place, example = int(rows.place[row]), int(rows.example[row])
        if example != NO_EXAMPLE:
            examples[example] = " ".join(text[: 2 * EXAMPLE_CHARACTERS].replace("\0", " ").split())[:EXAMPLE_CHARACTERS]
        else:
            counts.update((word, place) for word in words_of(text))
            texts[place] += 1

    def combiner(self) -> Combiner:
        return _Counts(self.clusters)


class _Counts(Combiner):
    """Counts of all units under one vocabulary, in order of first appearance."""

    def __init__(self, clusters: int) -> None:
        self._clusters = clusters
        self._vocabulary: dict[str, int] = {}
        self._entries, self._count = np.empty(0, np.int64), np.empty(0, np.int64)  # word * clusters + place
        self._texts, self._missing = np.zeros(clusters, np.int64), 0
        self._lists: dict[str, list[NDArray[Any]]] = {"example": [], "beginning": [], "failed": []}

    def add(self, partial: Mapping[str, NDArray[Any]]) -> None:
        words = partial["words"].tolist()
        ours = np.array([self._vocabulary.setdefault(word, len(self._vocabulary)) for word in words], np.int64)
        entries = ours[partial["word"]] * self._clusters + partial["place"] if len(words) else self._entries[:0]
        both = np.concatenate([self._entries, entries])
        self._entries, inverse = np.unique(both, return_inverse=True)
        self._count = np.bincount(inverse, np.concatenate([self._count, partial["count"]])).astype(np.int64)
        self._texts += partial["texts"]
        self._missing += int(partial["missing"])
        for name, pieces in self._lists.items():
            pieces.append(partial[name])

    def result(self) -> Partial:
        return {
            "words": np.array(list(self._vocabulary), np.str_) if self._vocabulary else np.empty(0, "<U1"),
            "word": self._entries // self._clusters,
            "place": self._entries % self._clusters,
            "count": self._count,
            "texts": self._texts,
            "missing": np.array(self._missing),
            **{name: np.concatenate([np.empty(0, pieces[0].dtype if pieces else "<U1"), *pieces])
               for name, pieces in self._lists.items()},
        }  # fmt: skip

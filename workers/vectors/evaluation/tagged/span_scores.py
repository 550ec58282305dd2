"""The spans that a probe of tags finds in test documents, beside the given ones. T types of spans."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.vectors.agreement.spans import SpanCounts, spans_of
from workers.vectors.evaluation.classes.division import Division
from workers.vectors.evaluation.classes.probe import Weights
from workers.vectors.evaluation.tagged.rows import TaggedRows
from workers.vectors.shard_rows import ShardRows
from workers.vectors.step import Partial, Step

OUTSIDE = "O"


def span_types(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Types of the spans that these tags can make, in order."""
    return tuple(sorted({kind for tag in classes for kind, _, _ in spans_of([tag])}))


@dataclass(frozen=True)
class SpanScores(Step):
    """Partial: `right`, `predicted`, `given` [T]; `documents` and `words` [1] that were tested.

    A tested document is scored whole, also where the evaluation has a sample of its words. A word without a token is `O`.
    """

    division: Division
    weights: Weights  # of one probe
    types: tuple[str, ...]

    def of_shard(self, rows: ShardRows) -> Partial:
        if not isinstance(rows, TaggedRows):
            raise TypeError("spans are of words: see OfWords")
        words, tested = rows.words, self.division.tested(rows)
        said = self._predicted(rows, tested)
        counts, documents, total = SpanCounts(), 0, 0
        for mine in _runs(words.document, tested):
            given = words.tags[words.document[mine.start]]
            predicted = [OUTSIDE] * len(given)
            for word, code in zip(words.word[mine], said[mine], strict=True):
                predicted[word] = self.division.classes[code]
            counts.add(given, predicted)
            documents, total = documents + 1, total + len(given)
        sums = {
            name: np.array([getattr(counts, name)[kind] for kind in self.types], np.int64)
            for name in ("right", "predicted", "given")
        }
        return sums | {"documents": np.array([documents]), "words": np.array([total])}

    def _predicted(self, rows: TaggedRows, tested: NDArray[np.bool_]) -> NDArray[np.int64]:
        """[M] the likeliest class of each tested word."""
        said = np.zeros(len(rows), np.int64)
        for first, vectors in rows.blocks(unit=False):
            mine = np.flatnonzero(tested[first : first + len(vectors)])
            if len(mine):
                said[first + mine] = self.weights.logits(0, vectors[mine]).argmax(axis=1)
        return said


def _runs(document: NDArray[np.int64], tested: NDArray[np.bool_]) -> list[slice]:
    """The words of each tested document; all words of a document are tested, or none."""
    edges = np.flatnonzero(np.diff(document, prepend=-1, append=-1))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges) if tested[a]]

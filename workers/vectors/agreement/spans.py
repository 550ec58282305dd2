"""F1 of spans, as seqeval counts them: entities of tags in IOB2 (Ramshaw and Marcus 1995; CoNLL-2000's conlleval).

    spans_of     tags of one sequence -> (type, first, last) of each span
    SpanCounts   right, predicted and given spans by type: sums, so shards may be counted apart
    f1           precision, recall and F1: micro, macro, weighted and by type

A span begins at `B-x`, at `I-x` after `O` or at the start, and at `I-x` after another type, as conlleval and seqeval's
default mode read such sequences. A predicted span is right if its type and both of its ends are those of a given one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

Span = tuple[str, int, int]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """`last` is the last tag of the span. A tag without `-` is of the type `_`, as seqeval has it; `O` is of none."""
    spans: list[Span] = []
    kind, first = "", -1
    for place, tag in enumerate(tags):
        prefix, of = ("O", "") if tag == "O" else (tag[0], tag[1:].removeprefix("-") or "_")
        goes_on = first >= 0 and prefix == "I" and of == kind
        if first >= 0 and not goes_on:
            spans.append((kind, first, place - 1))
            first = -1
        if prefix in ("B", "I") and not goes_on:
            kind, first = of, place
    if first >= 0:
        spans.append((kind, first, len(tags) - 1))
    return spans


@dataclass(slots=True)
class SpanCounts:
    """By type."""

    right: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)

    def add(self, given: Sequence[str], predicted: Sequence[str]) -> None:
        """One sequence. Raises: ValueError: the two have not one tag for each of the same tokens."""
        if len(given) != len(predicted):
            raise ValueError(f"{len(given)} given tags and {len(predicted)} predicted ones of one sequence")
        ours, theirs = set(spans_of(predicted)), set(spans_of(given))
        self.predicted.update(kind for kind, _, _ in ours)
        self.given.update(kind for kind, _, _ in theirs)
        self.right.update(kind for kind, _, _ in ours & theirs)

    def merge(self, other: SpanCounts) -> None:
        """Add those of other sequences."""
        self.right.update(other.right)
        self.predicted.update(other.predicted)
        self.given.update(other.given)


def f1(counts: SpanCounts) -> dict[str, dict[str, float]]:
    """`micro`, `macro`, `weighted` (by given spans) and each type: precision, recall and f1; 0 where a divisor is 0."""
    kinds = sorted(counts.given | counts.predicted)
    scores = {kind: _scores(counts.right[kind], counts.predicted[kind], counts.given[kind]) for kind in kinds}
    total = counts.given.total()
    means = {
        "micro": _scores(counts.right.total(), counts.predicted.total(), total),
        "macro": {name: _mean([scores[kind][name] for kind in kinds], [1] * len(kinds)) for name in _NAMES},
        "weighted": {
            name: _mean([scores[kind][name] for kind in kinds], [counts.given[kind] for kind in kinds]) for name in _NAMES
        },
    }
    return means | scores


_NAMES = ("precision", "recall", "f1")


def _scores(right: int, predicted: int, given: int) -> dict[str, float]:
    precision = right / predicted if predicted else 0.0
    recall = right / given if given else 0.0
    both = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0

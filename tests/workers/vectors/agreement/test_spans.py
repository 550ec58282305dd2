"""F1 of spans against seqeval, on drawn sequences of tags, well-formed or not."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from workers.vectors.agreement.spans import SpanCounts, f1, spans_of

TAGS = st.sampled_from(["O", "O", "B-person", "I-person", "B-place", "I-place", "B-x", "I-x"])
SEQUENCES = st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=12), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
@example([[("B-person", "B-person"), ("I-person", "B-person")]])
def test_equal_to_seqeval(pairs: list[list[tuple[str, str]]]) -> None:
    gold = [[one for one, _ in sequence] for sequence in pairs]
    guess = [[other for _, other in sequence] for sequence in pairs]
    parts = SpanCounts(), SpanCounts()
    for number, (one, other) in enumerate(zip(gold, guess, strict=True)):
        assert spans_of(one) == get_entities(one)
        parts[number % 2].add(one, other)
    parts[0].merge(parts[1])
    found = f1(parts[0])
    if not parts[0].given and not parts[0].predicted:
        assert found["micro"]["f1"] == 0
        return
    for average in ("micro", "macro", "weighted"):
        if average == "weighted" and not parts[0].given:
            continue  # seqeval divides by zero
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = precision_recall_fscore_support(gold, guess, average=average)
        ours = found[average]
        assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(theirs[:3], abs=1e-9), average


def test_sequences_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="2 given tags and 1 predicted ones"):
        SpanCounts().add(["O", "O"], ["O"])

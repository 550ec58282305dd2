"""Golden texts: short ones, one longer than any sliding window, none that is truncated."""

from __future__ import annotations

from pathlib import Path

from tests.workers.models import layout
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer


def test_golden_texts_are_short_and_long(minilm: Path) -> None:
    files, recipe = layout(minilm)
    lengths = TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS).lengths
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS) >= 20
    assert lengths.min() <= 4
    assert lengths.max() > 129  # ModernBERT's window reaches 64 tokens to either side
    assert lengths.max() < recipe.max_tokens, "cut off: the longest golden text proves no more than the limit"

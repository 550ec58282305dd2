"""Golden texts are what they claim to be, and a cosine says NaN where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.workers.models import layout
from workers.config import Precision
from workers.engine.precision import strays
from workers.model.golden import GOLDEN_TEXTS, cosines
from workers.model.tokenizer import TextTokenizer


def test_cosines_of_rows() -> None:
    a = np.array([[3, 4], [1, 0], [1, 0], [1, 1]], np.float32)
    b = np.array([[6, 8], [0, 2], [-5, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [1, 0, -1, 0.5**0.5], atol=1e-15)


def test_cosines_of_large_and_small_numbers_are_exact() -> None:
    a = np.array([[3e38, 3e38], [1e-38, 1e-38]], np.float32)
    np.testing.assert_allclose(cosines(a, a), 1, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_row_without_direction_is_nan(bad: float) -> None:
    good = np.ones((3, 4), np.float32)
    other = good.copy()
    other[1] = bad
    for found in (cosines(good, other), cosines(other, good), cosines(other, other)):
        assert np.isnan(found).tolist() == [False, True, False]
        assert strays(Precision.FLOAT32, found) == "1 of 3 golden texts gave no finite vector in float32"


def test_golden_texts_are_short_and_long(minilm: Path) -> None:
    files, recipe = layout(minilm)
    lengths = TextTokenizer(files.folder, recipe).tokenize(GOLDEN_TEXTS).lengths
    assert len(set(GOLDEN_TEXTS)) == len(GOLDEN_TEXTS) >= 20
    assert lengths.min() <= 4
    assert lengths.max() > 129  # ModernBERT's window reaches 64 tokens to either side
    assert lengths.max() < recipe.max_tokens, "cut off: the longest golden text proves no more than the limit"

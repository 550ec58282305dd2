"""Every family against transformers itself, one text at a time: the right vector, whatever else is in the batch; or refused.

Also that docs/models.md tells the ways truly. Some families run in a second here; REEMBED_FAMILIES=all runs every one of
tests/workers/many_families.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from tests.workers.families import of_lengths
from tests.workers.many_families import FAMILIES, REFUSED, random_folder
from tests.workers.models import build, layout
from tests.workers.ways_table import PARITY, alone, documented, row_of, some_texts
from workers.engine.encoder import Encoder
from workers.errors import UsageError
from workers.records.tokens import TokenizedTexts

pytestmark = pytest.mark.slow

# of each kind one: token types that nobody gave, padding that leaks, positions by id, names of its own, causal, windows
QUICK = (
    "gpt2",
    "gptj",
    "xlm",
    "xlnet",
    "fnet",
    "funnel",
    "mobilebert",
    "yoso",
    "roberta",
    "mpnet",
    "ibert",
    "opt",
    "qwen3",
    "qwen3 windows",
    "gemma3_text both ways",
    "eurobert",
    "t5",
)
CHOSEN = tuple(FAMILIES) if os.environ.get("REEMBED_FAMILIES") == "all" else QUICK


def rows_of(tokens: TokenizedTexts, rows: list[int]) -> TokenizedTexts:
    chosen = of_lengths(tokens.lengths[rows])
    chosen.input_ids[:] = np.concatenate([tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows])
    return chosen


def vectors_of(encoder: Encoder, tokens: TokenizedTexts, rows: list[int]) -> np.ndarray[Any, Any]:
    return encoder.encode(rows_of(tokens, rows)).vectors


@pytest.mark.parametrize("family", CHOSEN)
def test_as_transformers_alone_whatever_is_beside_it(minilm: Path, tmp_path: Path, family: str) -> None:
    folder = random_folder(family, minilm, tmp_path / "model")
    padding = getattr(transformers.AutoConfig.from_pretrained(folder), "pad_token_id", None)
    _, encoder = build(folder, batch_tokens=600, normalize=True, max_tokens=100)
    tokens = some_texts(padding)
    expected = alone(folder, family, tokens)
    found = encoder.encode(tokens).vectors
    error = np.abs(found - expected).max()
    short, by_length = 1, np.argsort(tokens.lengths)
    shorter = [short, *(int(row) for row in by_length[:5] if row != short)]
    longer = [short, *(int(row) for row in by_length[-5:])]
    by_itself = vectors_of(encoder, tokens, [short])[0]
    dependence = max(np.abs(vectors_of(encoder, tokens, rows)[0] - by_itself).max() for rows in (shorter, longer))
    print(f"{family}: {encoder.way}, error {error:.1e}, dependence {dependence:.1e}")
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "all texts have one vector: nothing is shown"
    assert error <= PARITY, encoder.way
    assert dependence <= 1e-6, encoder.way
    if encoder.device.type == "cpu":
        row, _ = row_of(folder, encoder, tokens, expected)
        assert documented().get(family) == row, "run: python -m tests.workers.ways_table --write"


def test_every_family_is_in_the_table() -> None:
    assert set(documented()) == set(FAMILIES)


@pytest.mark.parametrize("family", REFUSED)
def test_refused_at_plan_by_name(minilm: Path, tmp_path: Path, family: str) -> None:
    folder = random_folder(family, minilm, tmp_path / "model")
    with pytest.raises(UsageError, match=family):
        layout(folder, max_tokens=100)

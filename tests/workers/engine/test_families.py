"""Every family against transformers itself, one text at a time: the right vector, whatever else is in the batch; or refused.

Some families run in a second here; REEMBED_FAMILIES=all runs every one of tests/workers/many_families.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.workers.families import of_lengths
from tests.workers.many_families import FAMILIES, REFUSED, TYPED, random_folder
from tests.workers.models import build, layout
from workers.engine.encoder import Encoder
from workers.errors import UsageError
from workers.records.tokens import TokenizedTexts

pytestmark = pytest.mark.slow

# of each kind one: token types that nobody gave, padding that leaks, positions by id, names of its own, causal, refused
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
    "llama",
    "t5",
)
CHOSEN = tuple(FAMILIES) if os.environ.get("REEMBED_FAMILIES") == "all" else QUICK


@torch.inference_mode()
def alone(folder: Path, family: str, tokens: TokenizedTexts) -> np.ndarray[Any, Any]:
    """transformers on one sequence at a time: the mean of its last hidden states, of unit length."""
    name = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}.get(family, "AutoModel")
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]
        given = {"input_ids": ids}
        if family != "fnet":  # which takes none
            given["attention_mask"] = torch.ones_like(ids)
        if family in TYPED:
            given["token_type_ids"] = torch.zeros_like(ids)
        vector = model(**given).last_hidden_state[0].double().mean(dim=0).numpy()
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


def some_texts(padding: int | None) -> TokenizedTexts:
    """Lengths from 3 to 100 in no order; two sequences hold the padding token's id in their middle, as a text may."""
    lengths = np.random.default_rng(7).integers(3, 100, 20)
    lengths[:4] = 100, 3, 9, 60
    tokens = of_lengths(lengths)
    if padding is not None:
        for row in (2, 3):
            start = tokens.offsets[row]
            tokens.input_ids[start + 2 : start + 5 : 2] = padding
    return tokens


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
    assert error <= 1e-5, encoder.way
    assert dependence <= 1e-6, encoder.way


@pytest.mark.parametrize("family", REFUSED)
def test_refused_at_plan_by_name(minilm: Path, tmp_path: Path, family: str) -> None:
    folder = random_folder(family, minilm, tmp_path / "model")
    with pytest.raises(UsageError, match=family):
        layout(folder, max_tokens=100)

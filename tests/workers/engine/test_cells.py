"""Every layer and pooling from one forward pass, against transformers' hidden states, one text at a time in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.workers.models import TEXTS, build
from workers.config import Pooling
from workers.engine.cells import Cell
from workers.engine.encoder import Encoder
from workers.errors import UsageError

MAX_TOKENS = 64
POOLINGS = (Pooling.CLS, Pooling.MEAN, Pooling.MAX)
GRID = [Cell(layer, pooling) for layer in range(7) for pooling in POOLINGS]
GRID += [Cell(layer, Pooling.LAST4_MEAN) for layer in range(3, 7)]


def _pooled(layers: list[np.ndarray], cell: Cell) -> np.ndarray:
    match cell.pooling:
        case Pooling.CLS:
            return layers[cell.layer][0]
        case Pooling.MEAN:
            return layers[cell.layer].mean(axis=0)
        case Pooling.MAX:
            return layers[cell.layer].max(axis=0)
    return np.mean([layer.mean(axis=0) for layer in layers[cell.layer - 3 : cell.layer + 1]], axis=0)


def _expected(folder: Path, texts: list[str], cells: list[Cell]) -> np.ndarray:
    """[C, N, H] of unit length."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    found: list[list[np.ndarray]] = [[] for _ in cells]
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        layers = [state[0].double().numpy() for state in states]
        for at, cell in enumerate(cells):
            vector = _pooled(layers, cell)
            found[at].append(vector / np.linalg.norm(vector))
    return np.array(found)


@pytest.fixture(scope="module")
def loaded(minilm: Path) -> tuple[Any, Encoder]:
    return build(minilm, max_tokens=MAX_TOKENS)


@pytest.mark.slow
def test_equal_to_hidden_states(minilm: Path, loaded: tuple[Any, Encoder]) -> None:
    tokenizer, encoder = loaded
    tokens = tokenizer.tokenize(TEXTS)
    before = encoder.encode(tokens).vectors
    found = encoder.encode_cells(tokens, GRID)
    assert len(found) == len(GRID)
    expected = _expected(minilm, TEXTS, GRID)
    for at, cell in enumerate(GRID):
        assert np.abs(found[at].vectors - expected[at]).max() <= 1e-5, str(cell)
    own = found[GRID.index(Cell(6, Pooling.MEAN))].vectors
    assert own.tobytes() == before.tobytes(), "the model's own layer and pooling are its own vectors"
    assert encoder.encode(tokens).vectors.tobytes() == before.tobytes(), "and nothing of the grid stays"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(7, Pooling.MEAN), r"candidates.layers: 7, and the model has layers 0 \(its embeddings\) to 6"),
        (Cell(-1, Pooling.MEAN), "candidates.layers: -1"),
        (Cell(6, Pooling.POOLER), "pooler is not a pooling of every layer"),
        (Cell(6, Pooling.TOKENS), "tokens is not a pooling of every layer"),
        (Cell(2, Pooling.LAST4_MEAN), "last4_mean of layer 2: four layers are needed"),
    ],
)
def test_cells_that_there_are_not(loaded: tuple[Any, Encoder], cell: Cell, message: str) -> None:
    tokenizer, encoder = loaded
    with pytest.raises(UsageError, match=message):
        encoder.encode_cells(tokenizer.tokenize(["a"]), [cell])


@pytest.mark.slow
def test_truncated_vectors_and_chunks(minilm: Path, loaded: tuple[Any, Encoder]) -> None:
    tokenizer, encoder = build(minilm, max_tokens=MAX_TOKENS, truncate_dim=96)
    tokens = tokenizer.tokenize(TEXTS[:2])
    found = encoder.encode_cells(tokens, [Cell(6, Pooling.MEAN), Cell(6, Pooling.CLS)])
    assert found[0].vectors.tobytes() == encoder.encode(tokens).vectors.tobytes()
    assert found[1].vectors.shape == (2, 96)
    tokenizer, encoder = build(minilm, max_tokens=MAX_TOKENS, long_text="chunks", chunk_overlap=8)
    with pytest.raises(UsageError, match=r"layers are compared with model\.long_text: truncate"):
        encoder.encode_cells(tokenizer.tokenize(["a"]), [Cell(6, Pooling.MEAN)])

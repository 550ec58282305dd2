"""Vectors by NumPy beside those of transformers itself: families, stored precisions, poolings; and what is left to torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.workers.families import of_lengths, random_model
from tests.workers.many_families import random_folder
from tests.workers.models import TEXTS, layout
from tests.workers.ways_table import PARITY, alone, some_texts
from workers.config import LongText, Pooling
from workers.engine.encoder import Encoder
from workers.engine.query.encoder import QueryEncoder
from workers.model.files import ModelFiles
from workers.model.modules import ModuleSpec
from workers.model.recipes.recipe import EmbeddingRecipe
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts

Vectors = np.ndarray[Any, Any]


def opened(files: ModelFiles, recipe: EmbeddingRecipe) -> QueryEncoder:
    found = QueryEncoder.of(files, recipe)
    assert isinstance(found, QueryEncoder), found
    return found


@pytest.fixture(scope="module")
def bert(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, none of whose weights is 0 or 1."""
    folder = tmp_path_factory.mktemp("bert")
    random_model("Bert").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((minilm / name).read_bytes())
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_as_transformers_alone(minilm: Path, tmp_path: Path, family: str) -> None:
    """The padding token stands within two of the texts: some families give it no position. XLM-R is a RoBERTa."""
    folder = random_folder(family, minilm, tmp_path / "model")
    tokens = some_texts(transformers.AutoConfig.from_pretrained(folder).pad_token_id)
    found = opened(*layout(folder, normalize=True, max_tokens=100)).encode(tokens)
    expected = alone(folder, family, tokens)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "all texts have one vector: nothing is shown"
    assert np.abs(found.vectors - expected).max() <= PARITY
    assert found.vectors.dtype == np.float32


@pytest.mark.parametrize(("dtype", "shard"), [(torch.float16, "400KB"), (torch.bfloat16, "1GB")])
def test_weights_in_half_precision_and_in_several_files(bert: Path, tmp_path: Path, dtype: torch.dtype, shard: str) -> None:
    model = transformers.AutoModel.from_pretrained(bert, dtype=dtype)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors").is_file() == (shard == "1GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    tokens = of_lengths(np.array([7, 40]))
    found = opened(*layout(tmp_path, normalize=True, max_tokens=100)).encode(tokens).vectors
    assert np.abs(found - alone(tmp_path, "bert", tokens)).max() <= PARITY


@torch.inference_mode()
def states(folder: Path, tokens: TokenizedTexts) -> list[list[Vectors]]:
    """The states [T, I] of each layer, of each sequence, by transformers."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [torch.from_numpy(part.astype(np.int64))[None] for part in np.split(tokens.input_ids, tokens.offsets[1:-1])]
    outputs = [model(input_ids=one, output_hidden_states=True).hidden_states for one in ids]
    return [[layer[0].double().numpy() for layer in layers] for layers in outputs]


@pytest.mark.parametrize("prompt", [0, 2])
def test_poolings_are_the_formulas(bert: Path, prompt: int) -> None:
    """`prompt`: tokens that do not count."""
    files, recipe = layout(bert, normalize=False, max_tokens=100)
    tokens = replace(of_lengths(np.array([9, 60])), prompt_tokens=prompt)
    by_layer = states(bert, tokens)
    for row, layers in enumerate(by_layer):
        counted = [layer[prompt:] for layer in layers]
        last, positions = counted[-1], np.arange(prompt + 1, prompt + 1 + len(counted[-1]))
        formulas = {
            Pooling.CLS: last[0], Pooling.LAST_TOKEN: last[-1],
            Pooling.MAX: last.max(axis=0), Pooling.MEAN: last.mean(axis=0),
            Pooling.MEAN_SQRT_LEN: last.sum(axis=0) / len(last) ** 0.5,
            Pooling.WEIGHTED_MEAN: np.average(last, axis=0, weights=positions),
            Pooling.LAST4_MEAN: np.mean(counted[-4:], axis=(0, 1)),
            Pooling.LAST4_CONCAT: np.concatenate([layer.mean(axis=0) for layer in reversed(counted[-4:])]),
        }  # fmt: skip
        for mode, expected in formulas.items():
            encoder = opened(files, replace(recipe, pooling=(mode,), include_prompt=not prompt))
            assert np.allclose(encoder.encode(tokens).vectors[row], expected, atol=PARITY, rtol=0), mode
        several = replace(recipe, pooling=(Pooling.CLS, Pooling.MAX), include_prompt=not prompt, truncate_dim=40)
        expected = np.concatenate([formulas[Pooling.CLS], formulas[Pooling.MAX]])[:40]
        assert np.allclose(opened(files, several).encode(tokens).vectors[row], expected, atol=PARITY, rtol=0)


def test_minilm_as_transformers(minilm: Path) -> None:
    """Texts of every length, the longest ones truncated; with its own Normalize module."""
    files, recipe = layout(minilm)
    tokens = TextTokenizer(files.folder, recipe, threads=0).tokenize(TEXTS)
    assert tokens.truncated.any()
    found = opened(files, recipe).encode(tokens).vectors
    assert np.abs(found - Encoder.golden_reference(files, recipe, tokens)).max() <= 1e-5


def test_an_id_beyond_the_model_and_no_ids(bert: Path) -> None:
    encoder = opened(*layout(bert, max_tokens=100))
    tokens = of_lengths(np.array([5, 0, 4]))
    tokens.input_ids[2] = 10**6
    found = encoder.encode(tokens)
    assert "the tokenizer gives id 1000000" in found.refused[0]
    assert np.isnan(found.vectors).all(axis=1).tolist() == [True, True, False]


def test_what_is_left_to_torch(minilm: Path, bert: Path, tmp_path: Path) -> None:
    files, recipe = layout(bert, max_tokens=100)
    other = layout(random_folder("albert", minilm, tmp_path / "albert"), max_tokens=100)
    assert QueryEncoder.of(*other) == "the model is not BERT-like"
    for change in (
        {"long_text": LongText.CHUNKS}, {"pooling": (Pooling.POOLER,)}, {"pooling": (Pooling.MEAN, Pooling.TOKENS)},
    ):  # fmt: skip
        assert str(QueryEncoder.of(files, replace(recipe, **change))).startswith("pooling ")
    dense = (ModuleSpec("Dense", "2_Dense", 32, 16),)
    assert "trained modules" in str(QueryEncoder.of(files, replace(recipe, vector_modules=dense)))
    model = transformers.AutoModel.from_pretrained(bert, dtype=torch.float64)
    model.save_pretrained(tmp_path / "double")
    doubled = QueryEncoder.of(replace(files, folder=tmp_path / "double"), recipe)
    assert str(doubled).endswith("embeddings.word_embeddings.weight is stored as F64)")

"""Static models for the tests, written by model2vec and by sentence-transformers: a real tokenizer, random vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.workers.models import layout
from workers.engine.encoder import EncoderOptions
from workers.engine.static.encoder import StaticEncoder
from workers.model.golden import GOLDEN_TEXTS
from workers.model.tokenizer import TextTokenizer

DIM = 24


def small_tokenizer(minilm: Path, *, words: int = 2000) -> Tokenizer:
    """MiniLM's WordPiece with every so many of its words alone: much is unknown to it."""
    value = json.loads((minilm / "tokenizer.json").read_text())
    vocabulary = value["model"]["vocab"]
    special = {token["content"] for token in value["added_tokens"]}
    kept = [word for word, number in vocabulary.items() if word in special or number < words or number % 9 == 0]
    value["model"]["vocab"] = {word: number for number, word in enumerate(kept)}
    for token in value["added_tokens"]:
        token["id"] = value["model"]["vocab"][token["content"]]
    value["truncation"] = value["padding"] = value["post_processor"] = None
    return Tokenizer.from_str(json.dumps(value))


def random_table(rows: int, dim: int = DIM, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, dim), np.float32)


def model2vec_folder(tokenizer: Tokenizer, folder: Path, table: NDArray[Any] | None = None, **options: Any) -> Path:
    """By StaticModel.save_pretrained."""
    from model2vec import StaticModel

    table = random_table(tokenizer.get_vocab_size()) if table is None else table
    StaticModel(table, tokenizer, **options).save_pretrained(folder)
    return folder


def static_embedding_folder(tokenizer: Tokenizer, folder: Path, *after: Any, **options: Any) -> Path:
    """By SentenceTransformer.save_pretrained: StaticEmbedding, and the modules `after` it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = random_table(tokenizer.get_vocab_size())
    first = StaticEmbedding(Tokenizer.from_str(tokenizer.to_str()), embedding_weights=table)
    SentenceTransformer(modules=[first, *after], device="cpu", **options).save_pretrained(str(folder))
    return folder


def build_static(folder: Path, **settings: Any) -> tuple[TextTokenizer, StaticEncoder]:
    files, recipe = layout(folder, **settings)
    tokenizer = TextTokenizer(files.folder, recipe)
    return tokenizer, StaticEncoder(files, recipe, tokenizer.tokenize(GOLDEN_TEXTS), EncoderOptions(threads=1))

"""A small model's folder in sentence-transformers' layout, its files to be changed, and what others make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from tests.workers.families import TINY
from tests.workers.models import TEXTS, build, edit_json, layout, write_modules
from workers.errors import UsageError
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts

ADDED = {"content": "[WORLD]", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STAGED = "sentence_transformers.models"
WORDS = ["hello [WORLD]", "[WORLD] [WORLD] of boats", "a[SEP]b [PAD] c", "Naïve Café OF THE HARBOUR", *TEXTS]


def wordpiece() -> Tokenizer:
    """As BERT uncased, with 600 words; the capital letters are in it, for a tokenizer that does not lower them."""
    from tokenizers.normalizers import BertNormalizer

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=SPECIALS, initial_alphabet=list("ABCDEHNOST"), show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *WORDS], trainer)
    specials = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    return tokenizer


def save_folder(target: Path) -> Path:
    """A random BERT of two layers."""
    torch.manual_seed(4)
    config = transformers.BertConfig(**TINY | {"num_hidden_layers": 2, "vocab_size": 640})
    transformers.BertModel(config).save_pretrained(target)
    wordpiece().save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 128}))
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    (target / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (target / "1_Pooling/config.json").write_text(json.dumps(pooling))
    write_modules(target, *((f"{STAGED}.{kind}", path) for kind, path in
                            (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))))  # fmt: skip
    return target


def make(folder: Path, **settings: Any) -> TextTokenizer:
    files, recipe = layout(folder, **settings)
    return TextTokenizer(files.folder, recipe)


def sequences(tokens: TokenizedTexts) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(tokens.input_ids, tokens.offsets[1:-1])]


def assert_tokens(folder: Path, longest: int = 64, **options: Any) -> None:
    """Tokens of all texts are those of AutoTokenizer."""
    theirs = AutoTokenizer.from_pretrained(folder, **options)
    mine = sequences(make(folder).tokenize(WORDS))
    assert mine == [theirs(text, truncation=True, max_length=longest)["input_ids"] for text in WORDS]


def theirs(folder: Path, texts: list[str], how: str = "encode") -> np.ndarray[Any, np.dtype[np.float32]]:
    """sentence-transformers' vectors, one text at a time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.concatenate([np.asarray(getattr(model, how)([text], show_progress_bar=False)) for text in texts])


def assert_vectors(folder: Path, how: str = "encode", **settings: Any) -> None:
    tokenizer, encoder = build(folder, **settings)
    texts = [text for text in WORDS if text.isprintable()]  # the others may have no tokens, and so no vector
    assert np.abs(encoder.encode(tokenizer.tokenize(texts)).vectors - theirs(folder, texts, how)).max() <= 1e-5


def settings(folder: Path, **values: Any) -> None:
    edit_json(folder / "sentence_bert_config.json", **values)


def tokenizer_settings(folder: Path, **values: Any) -> None:
    edit_json(folder / "tokenizer_config.json", **values)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def settings_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "sentence_bert_config.json").read_text()))

"""The recipe: what the model's files say, what a setting overrides, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.workers.models import edit_json, layout, write_modules
from workers.config import LongText, Pooling
from workers.errors import UsageError
from workers.model.recipes.recipe import EmbeddingRecipe

OLD, NEW, BASE = (
    "sentence_transformers.models",
    "sentence_transformers.sentence_transformer.modules",
    "sentence_transformers.base.modules",
)


def read(folder: Path, **settings: Any) -> EmbeddingRecipe:
    return layout(folder, **settings)[1]


def pooling_config(folder: Path, **values: Any) -> None:
    size = {} if "embedding_dimension" in values else {"word_embedding_dimension": 384}
    (folder / "1_Pooling/config.json").write_text(json.dumps(size | values))


def test_minilm(model: Path) -> None:
    recipe = read(model)
    assert (recipe.pooling, recipe.normalize, recipe.max_tokens, recipe.dim) == ((Pooling.MEAN,), True, 256, 384)
    assert (recipe.prompt, recipe.include_prompt, recipe.long_text) == ("", True, LongText.TRUNCATE)
    json.dumps(asdict(recipe))  # goes into fingerprints


def test_without_modules_json(plain: Path) -> None:
    recipe = read(plain)
    assert (recipe.pooling, recipe.normalize, recipe.max_tokens) == ((Pooling.MEAN,), True, 512)


@pytest.mark.parametrize(("setting", "expected"), [("auto", False), (True, True), (False, False)])
def test_normalize_follows_modules_json(model: Path, setting: bool | str, expected: bool) -> None:
    write_modules(model, (f"{OLD}.Transformer", ""), (f"{OLD}.Pooling", "1_Pooling"))
    assert read(model, normalize=setting).normalize is expected


def test_new_spelling(model: Path) -> None:
    write_modules(
        model,
        (f"{BASE}.transformer.Transformer", ""),
        (f"{NEW}.pooling.Pooling", "1_Pooling"),
        (f"{NEW}.dropout.Dropout", "2_Dropout"),
        (f"{BASE}.normalize.Normalize", "3_Normalize"),
    )
    pooling_config(model, embedding_dimension=384, pooling_mode="lasttoken", include_prompt=False)
    recipe = read(model)
    assert (recipe.pooling, recipe.normalize, recipe.include_prompt) == ((Pooling.LAST_TOKEN,), True, False)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True}, (Pooling.CLS,)),
        ({"pooling_mode_max_tokens": True}, (Pooling.MAX,)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (Pooling.MEAN_SQRT_LEN,)),
        ({"pooling_mode_weightedmean_tokens": True}, (Pooling.WEIGHTED_MEAN,)),
        ({"pooling_mode_lasttoken": True}, (Pooling.LAST_TOKEN,)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (Pooling.CLS, Pooling.MEAN)),
        ({"pooling_mode": ["mean", "max"]}, (Pooling.MEAN, Pooling.MAX)),
        ({"word_embedding_dimension": 384}, (Pooling.MEAN,)),
    ],
)
def test_pooling_modes(model: Path, config: dict[str, Any], expected: tuple[Pooling, ...]) -> None:
    pooling_config(model, **config)
    recipe = read(model)
    assert recipe.pooling == expected
    assert recipe.dim == 384 * len(expected)
    assert read(model, pooling="max").pooling == (Pooling.MAX,), "an explicit pooling wins"


@pytest.mark.slow
def test_several_modes_agree_with_sentence_transformers(model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from tests.workers.models import TEXTS, build

    pooling_config(model, embedding_dimension=384, pooling_mode=["max", "cls", "weightedmean"])
    edit_json(model / "sentence_bert_config.json", max_seq_length=48)
    tokenizer, encoder = build(model)
    assert tokenizer.tokenize(TEXTS).lengths.max() == 48
    theirs = SentenceTransformer(str(model), device="cpu").encode(TEXTS)
    assert abs(encoder.encode(tokenizer.tokenize(TEXTS)).vectors - theirs).max() < 1e-4


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([f"{OLD}.CNN"], r"module sentence_transformers.models.CNN is not supported"),
        ([f"{OLD}.WordWeights"], r"not supported"),
        ([f"{OLD}.Pooling", f"{OLD}.Pooling"], r"two Pooling modules"),
        ([f"{OLD}.Pooling", f"{OLD}.LSTM"], r"works on tokens but comes after Pooling"),
    ],
)
def test_modules_that_are_refused(model: Path, modules: list[str], message: str) -> None:
    (model / "1_Pooling/lstm_config.json").write_text('{"hidden_dim": 8}')
    if f"{OLD}.LSTM" in modules:
        (model / "1_Pooling/model.safetensors").symlink_to(model / "model.safetensors")
    write_modules(model, (f"{OLD}.Transformer", ""), *((module, "1_Pooling") for module in modules))
    with pytest.raises(UsageError, match=message):
        read(model)


def test_unknown_pooling_mode(model: Path) -> None:
    pooling_config(model, pooling_mode="attention")
    with pytest.raises(UsageError, match=r"1_Pooling/config.json: pooling mode 'attention' is not known"):
        read(model)


@pytest.mark.slow
def test_default_prompt_agrees_with_sentence_transformers(model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from tests.workers.models import TEXTS, build

    prompts = {"prompts": {"doc": "Represent the sentence: "}, "default_prompt_name": "doc"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    pooling_config(model, word_embedding_dimension=384, pooling_mode_mean_tokens=True, include_prompt=False)
    edit_json(model / "sentence_bert_config.json", max_seq_length=32)
    tokenizer, encoder = build(model)
    theirs = SentenceTransformer(str(model), device="cpu").encode(TEXTS)
    assert abs(encoder.encode(tokenizer.tokenize(TEXTS)).vectors - theirs).max() < 1e-4


def test_a_default_prompt_that_is_not_there(model: Path) -> None:
    (model / "config_sentence_transformers.json").write_text('{"prompts": {}, "default_prompt_name": "doc"}')
    with pytest.raises(UsageError, match=r"default prompt 'doc' is not among its prompts; set model.prompt"):
        read(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncate_dim": 385}, r"truncate_dim=385: the model's vectors have 384 components"),
        ({"pooling": "tokens", "long_text": "mean_of_chunks"}, r"cannot be averaged over chunks"),
        ({"pooling": "mean_lstm"}, r"has no LSTM module"),
    ],
)
def test_settings_that_are_refused(model: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(model, **settings)


@pytest.mark.parametrize(
    ("settings", "dim"),
    [
        ({"pooling": "last4_concat"}, 1536),
        ({"truncate_dim": 384}, 384),
        ({"truncate_dim": 7}, 7),
        ({"pooling": "tokens"}, 384),
    ],
)
def test_dimension(model: Path, settings: dict[str, Any], dim: int) -> None:
    assert read(model, **settings).dim == dim


def test_a_transformer_with_another_task(model: Path) -> None:
    edit_json(model / "sentence_bert_config.json", transformer_task="text-generation")
    with pytest.raises(UsageError, match="only text encoders are supported"):
        read(model)


def test_layers_below_a_lstm_cannot_be_pooled(model: Path) -> None:
    lstm = model / "1_LSTM"
    lstm.mkdir()
    (lstm / "lstm_config.json").write_text('{"word_embedding_dimension": 384, "hidden_dim": 50, "bidirectional": false}')
    (lstm / "model.safetensors").write_bytes(b"not looked into here")
    write_modules(model, (f"{OLD}.Transformer", ""), (f"{OLD}.LSTM", "1_LSTM"), (f"{OLD}.Pooling", "1_Pooling"))
    recipe = read(model)
    assert (recipe.pooling, recipe.dim) == ((Pooling.MEAN_LSTM,), 50)
    assert read(model, pooling="max").token_modules == recipe.token_modules
    with pytest.raises(UsageError, match=r"pooling=pooler: reads the transformer's own layers"):
        read(model, pooling="pooler")

"""LSTM and Dense modules as saved by sentence-transformers, against a reference written by hand and against that library."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.workers.models import TEXTS, build, copy_model, edit_json, layout, write_modules
from workers.errors import UsageError

TOLERANCE = 1e-4


def save_model(minilm: Path, target: Path, *kinds: str) -> Any:
    """A SentenceTransformer with seeded random modules around MiniLM, saved by the library itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as library

    torch.manual_seed(7)
    parts: list[Any] = [library.Transformer(str(minilm), max_seq_length=64)]
    size = 384
    for kind in kinds:
        if kind == "lstm":
            parts.append(library.LSTM(size, 40, num_layers=2))
            size = 80
        elif kind == "pooling":
            parts.append(library.Pooling(size, "mean"))
        elif kind == "dense":
            parts.append(library.Dense(size, 48, activation_function=torch.nn.Tanh()))
            size = 48
        elif kind == "normalize":
            parts.append(library.Normalize())
    model = SentenceTransformer(modules=parts, device="cpu").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(str(target), create_model_card=False)
    return model


def last_states(folder: Path) -> list[np.ndarray]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return [
            model(**tokenizer(text, truncation=True, max_length=64, return_tensors="pt"))
            .last_hidden_state[0]
            .double()
            .numpy()
            for text in TEXTS
        ]


@pytest.mark.slow
def test_mean_lstm(minilm: Path, tmp_path: Path) -> None:
    """The reference runs the LSTM in float64, one unpadded text at a time, from the saved weights."""
    from safetensors.torch import load_file

    saved = save_model(minilm, tmp_path / "lstm", "lstm", "pooling")
    torch_lstm = torch.nn.LSTM(384, 40, num_layers=2, bidirectional=True, batch_first=True).double()
    weights = load_file(tmp_path / "lstm/1_LSTM/model.safetensors")
    torch_lstm.load_state_dict({name.removeprefix("encoder."): weight.double() for name, weight in weights.items()})
    with torch.no_grad():
        expected = np.stack(
            [torch_lstm(torch.from_numpy(states)[None])[0][0].mean(dim=0).numpy() for states in last_states(minilm)]
        )
    for pooling in ("auto", "mean_lstm"):
        tokenizer, encoder = build(tmp_path / "lstm", pooling=pooling)
        tokens = tokenizer.tokenize(TEXTS)
        vectors = encoder.encode(tokens).vectors
        assert vectors.shape == (len(TEXTS), 80)
        assert np.abs(vectors - expected).max() <= TOLERANCE
    # sentence-transformers' own modules; its Transformer does not hand on the lengths that its LSTM wants
    features = saved.preprocess(TEXTS)
    with torch.no_grad():
        features = saved[0](features)
        features["sentence_lengths"] = features["attention_mask"].sum(dim=1)
        theirs = saved[2](saved[1](features))["sentence_embedding"].numpy()
    assert np.abs(vectors - theirs).max() <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("long_text", ["truncate", "mean_of_chunks"])
def test_dense(minilm: Path, tmp_path: Path, long_text: str) -> None:
    saved = save_model(minilm, tmp_path / "dense", "pooling", "dense", "normalize")
    tokenizer, encoder = build(tmp_path / "dense", long_text=long_text, chunk_overlap=8)
    tokens = tokenizer.tokenize(TEXTS)
    vectors = encoder.encode(tokens).vectors
    assert encoder.dim == 48
    weight, bias = saved[2].linear.weight.detach().double().numpy(), saved[2].linear.bias.detach().double().numpy()
    if long_text == "truncate":
        pooled = np.stack([states.mean(axis=0) for states in last_states(minilm)])
        expected = np.tanh(pooled @ weight.T + bias)
        assert np.abs(vectors - saved.encode(TEXTS)).max() <= TOLERANCE
    else:  # averaged between Dense and Normalize
        plain_tokenizer, plain = build(minilm, long_text="chunks", chunk_overlap=8, max_tokens=64, normalize=False)
        chunks = plain_tokenizer.tokenize(TEXTS)
        dense = np.tanh(plain.encode(chunks).vectors.astype(np.float64) @ weight.T + bias)
        expected = np.stack(
            [
                np.average(dense[chunks.document == row], axis=0, weights=chunks.lengths[chunks.document == row])
                for row in range(len(TEXTS))
            ]
        )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vectors - expected).max() <= TOLERANCE


@pytest.mark.slow
def test_dense_on_tokens_applies_to_token_vectors(minilm: Path, tmp_path: Path) -> None:
    """Late-interaction layouts: a Dense that reads token_embeddings comes before pooling, or serves pooling=tokens."""
    saved = save_model(minilm, tmp_path / "dense", "pooling", "dense")
    edit_json(
        tmp_path / "dense/2_Dense/config.json", module_input_name="token_embeddings", module_output_name="token_embeddings"
    )
    write_modules(
        tmp_path / "dense",
        ("sentence_transformers.models.Transformer", ""),
        ("sentence_transformers.models.Dense", "2_Dense"),
        ("sentence_transformers.models.Normalize", "3_Normalize"),
    )
    tokenizer, encoder = build(tmp_path / "dense", pooling="tokens")
    vectors = encoder.encode(tokenizer.tokenize(TEXTS)).vectors
    weight, bias = saved[2].linear.weight.detach().double().numpy(), saved[2].linear.bias.detach().double().numpy()
    expected = np.tanh(np.concatenate(last_states(minilm)) @ weight.T + bias)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vectors - expected).max() <= TOLERANCE


@pytest.mark.slow
def test_pooling_that_does_not_fit_dense(minilm: Path, tmp_path: Path) -> None:
    save_model(minilm, tmp_path / "dense", "pooling", "dense")
    with pytest.raises(UsageError, match=r"last4_concat: gives 1536 components.*2_Dense takes 384"):
        layout(tmp_path / "dense", pooling="last4_concat")


@pytest.mark.slow
def test_weights_that_do_not_fit(minilm: Path, tmp_path: Path) -> None:
    save_model(minilm, tmp_path / "dense", "pooling", "dense")
    edit_json(tmp_path / "dense/2_Dense/config.json", out_features=47)
    with pytest.raises(UsageError, match=r"2_Dense: this Dense module cannot be loaded"):
        build(tmp_path / "dense")


@pytest.mark.slow
def test_custom_activation_is_refused(minilm: Path, tmp_path: Path) -> None:
    save_model(minilm, tmp_path / "dense", "pooling", "dense")
    edit_json(tmp_path / "dense/2_Dense/config.json", activation_function="evil.module.run")
    with pytest.raises(UsageError, match=r"evil.module.run.*never run"):
        layout(tmp_path / "dense")


@pytest.mark.slow
def test_pickled_module_weights_are_refused(minilm: Path, tmp_path: Path) -> None:
    save_model(minilm, tmp_path / "lstm", "lstm", "pooling")
    (tmp_path / "lstm/1_LSTM/model.safetensors").rename(tmp_path / "lstm/1_LSTM/pytorch_model.bin")
    with pytest.raises(UsageError, match=r"1_LSTM.*never loaded"):
        layout(tmp_path / "lstm")


def test_without_an_lstm(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mean_lstm.*has no LSTM module"):
        layout(copy_model(minilm, tmp_path / "model"), pooling="mean_lstm")

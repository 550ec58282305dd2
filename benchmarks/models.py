"""Shared by the benchmarks of the engine: models (real, or random of a known size), tokenised corpora, the FLOP of a token.

    random_model        a folder in sentence-transformers' layout with random weights and another model's tokenizer
    Bench               a model's files, recipe and tokeniser; makes encoders, and encoders that run plain transformers
    Shape               layers and widths; FLOP of a token at a mix of lengths
    facts, spread       the head of every result; median, minimum and maximum of repeated figures

Speed does not depend on the weights, but quality does: cosines of random models mean little.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import shutil
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import commit, hardware
from workers.config import ModelConfig, Precision
from workers.engine.checkpoint import load_transformer
from workers.engine.encoder import Encoder, EncoderOptions
from workers.engine.ways.interface import Forward
from workers.model.files import resolve_model
from workers.model.golden import GOLDEN_TEXTS
from workers.model.recipes.read import read_recipe
from workers.model.tokenizer import TextTokenizer
from workers.records.tokens import TokenizedTexts, ranges

PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "ray", "pyarrow", "numpy")
RANDOM = {  # layers, hidden size, heads, inner size
    "one-layer": (1, 32, 2, 64),
    "bert-tiny": (2, 128, 2, 512),
    "bert-base": (12, 768, 12, 3072),
    "bert-large": (24, 1024, 16, 4096),
    "mpnet-base": (12, 768, 12, 3072),
}


def random_model(kind: str, source: Path, folder: Path, seed: int = 0) -> Path:
    """A BERT or MPNet of that size with random weights below `folder`; all else is as in `source`: tokenizer, pooling, …"""
    import torch
    from transformers import AutoModel, BertConfig, MPNetConfig

    layers, hidden, heads, inner = RANDOM[kind]
    target = folder / kind
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx", "*.msgpack", "openvino*")
    )
    for name in target.glob("*_Pooling/config.json"):
        settings = json.loads(name.read_text())
        settings |= {key: hidden for key in ("word_embedding_dimension", "embedding_dimension") if key in settings}
        name.write_text(json.dumps(settings))
    words = json.loads((source / "config.json").read_text())["vocab_size"]
    torch.manual_seed(seed)
    config = (MPNetConfig if kind.startswith("mpnet") else BertConfig)(
        vocab_size=words, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner
    )
    AutoModel.from_config(config).save_pretrained(target)
    return target


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    inner: int

    def flop_per_token(self, lengths: np.ndarray) -> float:
        """Matrix products alone: layers (8 h^2 + 4 h ff) + layers 4 h L, L = sum(l^2) / sum(l)."""
        effective = float((lengths.astype(np.float64) ** 2).sum() / lengths.sum())
        h, inner = self.hidden, self.inner
        return self.layers * (8 * h * h + 4 * h * inner) + self.layers * 4 * h * effective


class Bench:
    """One model folder, ready to be measured."""

    def __init__(self, folder: Path) -> None:
        config = ModelConfig(name=str(folder))
        self.folder, self.files = folder, resolve_model(config)
        self.recipe = read_recipe(self.files, config)
        self.tokenizer = TextTokenizer(self.files.folder, self.recipe)
        found = json.loads((self.files.folder / self.recipe.transformer / "config.json").read_text())
        self.shape = Shape(found["num_hidden_layers"], found["hidden_size"], found["intermediate_size"])

    def encoder(self, precision: str = "auto", batch_tokens: Any = "auto", threads: int | None = None) -> Encoder:
        """The product's own, proved on its golden texts."""
        golden = self.tokenizer.tokenize(GOLDEN_TEXTS)
        return Encoder(self.files, self.recipe, golden, EncoderOptions(Precision(precision), batch_tokens, threads))

    def transformer(self, encoder: Encoder, precision: str) -> Any:
        """transformers' own module, in that precision on that encoder's device."""
        import torch

        model = load_transformer(
            self.files.folder / self.recipe.transformer, self.files.name, dtype="float32", with_pooler=False
        )
        return model.to(encoder.device, getattr(torch, precision))


def running(encoder: Encoder, forward: Forward) -> Encoder:
    """The same encoder with another forward pass: batches, pooling and copies stay the product's: only it differs."""
    other = copy.copy(encoder)
    other._forward = forward  # no public way: the product never changes it after its proof
    return other


def repeated(tokens: TokenizedTexts, least_tokens: int) -> TokenizedTexts:
    """The texts again and again, until there are so many tokens."""
    times = max(1, -(-least_tokens // len(tokens.input_ids)))
    return chosen(tokens, np.tile(np.arange(len(tokens.lengths)), times))


def chosen(tokens: TokenizedTexts, rows: np.ndarray) -> TokenizedTexts:
    """These sequences (one a document), in this order."""
    lengths = tokens.lengths[rows]
    return TokenizedTexts(
        tokens.input_ids[ranges(tokens.offsets[rows], lengths)], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.arange(len(rows), dtype=np.int32), None, None, np.zeros(len(rows), np.bool_), lengths.astype(np.int32),
        tokens.prompt_tokens,
    )  # fmt: skip


def over_all_lengths(tokens: TokenizedTexts, count: int) -> np.ndarray:
    """Rows spread evenly over the lengths that occur, not over how often they occur: long texts count as much as short."""
    order = np.argsort(tokens.lengths, kind="stable")
    lengths = tokens.lengths[order]
    wanted = np.linspace(lengths[0], lengths[-1], count)
    first = np.unique(np.minimum(np.searchsorted(lengths, wanted), len(order) - 1))
    rest = np.setdiff1d(np.arange(len(order)), first)  # where few lengths occur: any others, evenly
    more = rest[np.linspace(0, len(rest) - 1, min(count - len(first), len(rest)), dtype=np.int64)] if len(rest) else rest
    return np.sort(order[np.concatenate([first, more])])


def facts(benchmark: str) -> dict[str, Any]:
    """How every result begins."""
    return {"benchmark": benchmark, "hardware": hardware(), **commit(), "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # what is not there took no part
    return found


def spread(values: Iterable[float], digits: int = 1) -> dict[str, Any]:
    """Median, least and most, and the values themselves."""
    rounded = [round(value, digits) for value in values]
    return {"median": round(statistics.median(rounded), digits), "min": min(rounded), "max": max(rounded), "all": rounded}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def store(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")

"""A BERT layer's weights under one set of names, whichever family's module they come from.

    is_bert_like(model)   whether it is one of these; costs nothing
    weights_of(model)     one LayerWeights a layer

All these families are the same computation: attention, residual, LayerNorm, feed-forward, residual, LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from workers.engine.attention import SCORE_UNIT

_BERT = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "output_norm": "output.LayerNorm",
}  # fmt: skip
_DISTILBERT = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "output_norm": "output_layer_norm",
}  # fmt: skip
_FAMILIES = {
    "bert": ("encoder.layer", _BERT), "roberta": ("encoder.layer", _BERT), "xlm-roberta": ("encoder.layer", _BERT),
    "camembert": ("encoder.layer", _BERT), "electra": ("encoder.layer", _BERT),
    "distilbert": ("transformer.layer", _DISTILBERT),
}  # fmt: skip
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float

    def to(self, dtype: torch.dtype) -> Norm:
        return Norm(self.weight.to(dtype), self.bias.to(dtype), self.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Float32. `qkv` has the softmax's scale, in SCORE_UNITs, in its query rows."""

    heads: int
    qkv: tuple[Tensor, Tensor]  # [3 H d, hidden], [3 H d]
    out: tuple[Tensor, Tensor]
    attention_norm: Norm
    up: tuple[Tensor, Tensor]
    activation: str  # a key of linear.ACTIVATIONS
    down: tuple[Tensor, Tensor]
    output_norm: Norm


def is_bert_like(model: Any) -> bool:
    """Of one of these families, and no variant of it (decoder, relative positions)."""
    config = model.config
    relative = getattr(config, "position_embedding_type", "absolute") != "absolute"
    known = config.model_type in _FAMILIES and _activation(config) in _ACTIVATIONS
    return known and not relative and not getattr(config, "is_decoder", False)


def weights_of(model: Any) -> list[LayerWeights]:
    """Copies them. Raises: ValueError: the model is not built like BERT."""
    if not is_bert_like(model):
        raise ValueError(f"{type(model).__name__} is not built like BERT")
    config = model.config
    path, names = _FAMILIES[config.model_type]
    activation = _ACTIVATIONS[_activation(config)]
    return [_layer(layer, names, int(config.num_attention_heads), activation) for layer in attrgetter(path)(model)]


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", None))


def _layer(layer: Any, names: dict[str, str], heads: int, activation: str) -> LayerWeights:
    found = {name: attrgetter(path)(layer) for name, path in names.items()}
    pairs = {name: (module.weight.detach().float(), module.bias.detach().float()) for name, module in found.items()}
    scale = (len(pairs["query"][1]) // heads) ** -0.5 / SCORE_UNIT
    query = (pairs["query"][0] * scale, pairs["query"][1] * scale)
    qkv = [torch.cat(parts) for parts in zip(query, pairs["key"], pairs["value"], strict=True)]
    norms = {name: Norm(*pairs[name], float(found[name].eps)) for name in ("attention_norm", "output_norm")}
    return LayerWeights(
        heads, (qkv[0], qkv[1]), pairs["out"], norms["attention_norm"], pairs["up"], activation, pairs["down"],
        norms["output_norm"],
    )  # fmt: skip

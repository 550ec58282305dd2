"""The weights of BERT-like models under one set of names, from the tensors of a checkpoint of any of these families.

    facts_of(config)             facts from config.json; None for other models, or if a fact is missing
    read_weights(state, facts)   tensors by name -> embeddings and layers, in float32

All families compute the same: attention, residual, LayerNorm, feed-forward network, residual, LayerNorm; MPNet with a bias
of attention scores by distance, the same in all layers. Importing
transformers would take a replica longer than reading the weights. Knows neither files nor transformers.

Shapes: V words, P positions, E size of an embedding, I hidden size, H heads, d size of a head, R distances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.kernels.attention import SCORE_UNIT
from workers.engine.kernels.relative import RelativeBias
from workers.model.architecture import OFFSET_POSITIONS, first_position, uncounted

_BERT = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense", "down": "output.dense", "output_norm": "output.LayerNorm",
}  # fmt: skip
_DISTILBERT = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "output_norm": "output_layer_norm",
}  # fmt: skip
_MPNET = _BERT | {
    "query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v", "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}  # fmt: skip
_FAMILIES = {  # model_type -> path of the layers, names of their modules, prefix in checkpoints with a head
    "bert": ("encoder.layer", _BERT, "bert."), "roberta": ("encoder.layer", _BERT, "roberta."),
    "xlm-roberta": ("encoder.layer", _BERT, "roberta."), "camembert": ("encoder.layer", _BERT, "roberta."),
    "electra": ("encoder.layer", _BERT, "electra."), "distilbert": ("transformer.layer", _DISTILBERT, "distilbert."),
    "mpnet": ("encoder.layer", _MPNET, "mpnet."),
}  # fmt: skip
_ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
_UNTYPED = ("distilbert", "mpnet")  # without token types
_MPNET_BUCKETS, _MPNET_FARTHEST = 32, 128  # fixed by transformers, whatever config.json says; so is the padding token, 1
_DISTILBERT_EPS = 1e-12  # DistilBERT's config.json has no setting for it
State = Mapping[str, Tensor]


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
class EmbeddingWeights:
    """Embeddings, and the LayerNorm over them.

    `positions` includes the embedding of the first token type. Its first row is that of a sequence's first position; or, if
    a token is `uncounted`, that of this token, which has no position of its own, and the next row is the first position's.
    """

    words: Tensor  # [V, E]
    positions: Tensor  # [P, E]
    uncounted: int | None  # id of the padding token, in families that number positions without it
    norm: Norm
    project: tuple[Tensor, Tensor] | None  # [I, E], [I]: only ELECTRA's small models


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, in float32: pairs of weight and bias. Query rows of `qkv` include the softmax's scale, in SCORE_UNITs."""

    heads: int
    qkv: tuple[Tensor, Tensor]  # [3 H d, I], [3 H d]
    out: tuple[Tensor, Tensor]
    attention_norm: Norm
    up: tuple[Tensor, Tensor]
    activation: str  # a key of linear.ACTIVATIONS
    down: tuple[Tensor, Tensor]
    output_norm: Norm
    bias: RelativeBias | None = None  # of the attention's scores: one object, shared by all layers


@dataclass(frozen=True, slots=True)
class BertWeights:
    """A model without its pooler."""

    embeddings: EmbeddingWeights
    layers: tuple[LayerWeights, ...]

    @property
    def bias(self) -> RelativeBias | None:
        """The bias of attention scores by distance, if the family has one."""
        return self.layers[0].bias

    @property
    def hidden(self) -> int:
        """Components of a hidden state."""
        return len(self.layers[-1].output_norm.weight)


@dataclass(frozen=True, slots=True)
class BertFacts:
    """What is needed beside the weights."""

    family: str
    layers: int
    heads: int
    activation: str
    eps: float
    first_position: int
    uncounted: int | None


def facts_of(config: Mapping[str, Any]) -> BertFacts | None:
    """The facts in config.json; None for other families, variants (decoder, relative positions) and missing facts."""
    family = str(config.get("model_type"))
    distil = family == "distilbert"
    names = ("n_layers", "n_heads", "activation") if distil else ("num_hidden_layers", "num_attention_heads", "hidden_act")
    values = [config.get(name) for name in names]
    eps = _DISTILBERT_EPS if distil else config.get("layer_norm_eps")
    plain = config.get("position_embedding_type") in (None, "absolute") and not config.get("is_decoder")
    if family not in _FAMILIES or not plain or None in (*values, eps) or str(values[2]) not in _ACTIVATIONS:
        return None
    if family in OFFSET_POSITIONS and not isinstance(config.get("pad_token_id"), int):
        return None
    if family == "mpnet" and config["pad_token_id"] != 1:
        return None
    activation, first, padding = _ACTIVATIONS[str(values[2])], first_position(config), uncounted(config)
    return BertFacts(family, int(str(values[0])), int(str(values[1])), activation, float(str(eps)), first, padding)


def read_weights(state: State, facts: BertFacts) -> BertWeights:
    """The weights, from tensors by name.

    Raises:
        KeyError: a tensor is missing. ValueError: the number of heads does not divide the hidden size.
    """
    path, names, prefix = _FAMILIES[facts.family]
    tensors = _Tensors(state, prefix)
    words, table = tensors["embeddings.word_embeddings.weight"], tensors["embeddings.position_embeddings.weight"]
    if facts.family not in _UNTYPED:
        table = table + tensors["embeddings.token_type_embeddings.weight"][0]
    norm = Norm(tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"], facts.eps)
    bias = _relative(tensors["encoder.relative_attention_bias.weight"]) if facts.family == "mpnet" else None
    layers = tuple(_layer(tensors, f"{path}.{number}", names, facts, bias) for number in range(facts.layers))
    project = None
    if facts.family == "electra" and words.shape[1] != len(layers[0].output_norm.weight):
        project = tensors.pair("embeddings_project")
    table = table[facts.first_position if facts.uncounted is None else facts.first_position - 1 :]
    return BertWeights(EmbeddingWeights(words, table, facts.uncounted, norm, project), layers)


class _Tensors:
    """Tensors in float32 by the names of a bare model. The checkpoint's may have a prefix, and LayerNorm's old names."""

    def __init__(self, state: State, prefix: str) -> None:
        self._state, self._prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for known in (name, self._prefix + name, old, self._prefix + old):
            if known in self._state:
                return self._state[known].detach().float()
        raise KeyError(name)

    def pair(self, module: str) -> tuple[Tensor, Tensor]:
        return self[f"{module}.weight"], self[f"{module}.bias"]


def _layer(tensors: _Tensors, path: str, names: dict[str, str], facts: BertFacts, bias: RelativeBias | None) -> LayerWeights:
    pairs = {name: tensors.pair(f"{path}.{module}") for name, module in names.items()}
    width = len(pairs["query"][1])
    if width % facts.heads:
        raise ValueError(f"{facts.heads} heads do not divide {width}")
    scale = (width // facts.heads) ** -0.5 / SCORE_UNIT
    query = (pairs["query"][0] * scale, pairs["query"][1] * scale)
    qkv = [torch.cat(parts) for parts in zip(query, pairs["key"], pairs["value"], strict=True)]
    norms = {name: Norm(*pairs[name], facts.eps) for name in ("attention_norm", "output_norm")}
    return LayerWeights(
        facts.heads, (qkv[0], qkv[1]), pairs["out"], norms["attention_norm"], pairs["up"], facts.activation, pairs["down"],
        norms["output_norm"], bias,
    )  # fmt: skip


def _relative(buckets_NH: Tensor) -> RelativeBias:
    """The bias of every distance, from a table of N buckets of distances.

    Half of the buckets are for keys before their query and half for those behind: the first half of each for one distance
    each, the others for ranges that grow exponentially, up to _MPNET_FARTHEST (T5, arXiv:1910.10683, section 2.1). The
    formula is that of transformers' MPNetEncoder.relative_position_bucket, in the same precision.

    Raises:
        ValueError: the table is too short.
    """
    if len(buckets_NH) < _MPNET_BUCKETS:
        raise ValueError(f"{len(buckets_NH)} buckets of distances, not {_MPNET_BUCKETS}")
    half, exact = _MPNET_BUCKETS // 2, _MPNET_BUCKETS // 4
    ahead_R = torch.arange(-_MPNET_FARTHEST, _MPNET_FARTHEST + 1)
    far_R = ahead_R.abs()
    grown_R = torch.log(far_R.clamp(min=1).float() / exact) / math.log(_MPNET_FARTHEST / exact) * (half - exact)
    ranges_R = (exact + grown_R.to(torch.int64)).clamp(max=half - 1)
    bucket_R = torch.where(far_R < exact, far_R, ranges_R) + half * (ahead_R > 0)
    return RelativeBias(buckets_NH[bucket_R].T)

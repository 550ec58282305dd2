"""The weights of BERT-like models under one set of names, from the tensors of a checkpoint of any of these families.

    read_weights(state, facts)   tensors by name -> embeddings and layers, in float32

All families compute the same: attention, residual, LayerNorm, feed-forward network, residual, LayerNorm; MPNet with a bias
of attention scores by distance, the same in all layers. Importing transformers would take a replica longer than reading the
weights. What config.json says: facts.py. Knows neither files nor transformers.

Shapes: V words, P positions, E size of an embedding, I hidden size, H heads, d size of a head, R distances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.bert.facts import FAMILIES, UNTYPED, BertFacts, stored_name
from workers.engine.kernels.attention import SCORE_UNIT
from workers.engine.kernels.relative import RelativeBias

_MPNET_BUCKETS, _MPNET_FARTHEST = 32, 128  # fixed by transformers, whatever config.json says
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


def read_weights(state: State, facts: BertFacts) -> BertWeights:
    """The weights, from tensors by name.

    Raises:
        KeyError: a tensor is missing. ValueError: the number of heads does not divide the hidden size.
    """
    path, names, prefix = FAMILIES[facts.family]
    tensors = _Tensors(state, prefix)
    words, table = tensors["embeddings.word_embeddings.weight"], tensors["embeddings.position_embeddings.weight"]
    if facts.family not in UNTYPED:
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
    """Tensors in float32 by the names of a bare model."""

    def __init__(self, state: State, prefix: str) -> None:
        self._state, self._prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._state[stored_name(name, self._prefix, self._state)].detach().float()

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

"""The forward pass of BERT-like models in NumPy, for one sequence, in float32.

    x = LayerNorm(word + position + type)                              (ELECTRA's small models: projected to I components)
    per layer:  a = LayerNorm(x + W_o attention(x) + b_o)              attention: softmax(q k^T / sqrt(d) + bias) v, by head
                x = LayerNorm(a + W_down activation(W_up a + b_up) + b_down)

BERT (arXiv:1810.04805) and the families that compute the same; MPNet alone has a bias, by distance. There is no padding.

Shapes: T tokens, I hidden size, H heads, d size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from workers.engine.bert.facts import FAMILIES, UNTYPED, BertFacts
from workers.engine.query.mapped import Floats, MappedTensors

WORDS = "embeddings.word_embeddings.weight"
_POSITIONS, _TYPES = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"
# erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: wrong by 1.5e-7 at most, as float32 is.
_ERF_STEP = np.float32(0.3275911)
_ERF = tuple(map(np.float32, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)))
_BIAS = "encoder.relative_attention_bias.weight"
# MPNet's buckets of distances, in either direction: one for each distance below 8, then 8 more, which begin at 8 16^(n / 8)
_EXACT, _NEXT = 8, (12, 16, 23, 32, 46, 64, 91)


class NumpyBert:
    """A model without its pooler. Its weights are read when they are used."""

    def __init__(self, tensors: MappedTensors, facts: BertFacts) -> None:
        self._tensors, self._facts = tensors, facts
        self._path, self._modules, _ = FAMILIES[facts.family]

    def __call__(self, ids_T: NDArray[np.int32], kept: int = 1) -> list[Floats]:
        """The hidden states [T, I] of the last `kept` layers, deepest last.

        Raises:
            KeyError, ValueError, IndexError: the checkpoint is not as its config.json says.
        """
        x_TI, states = self._embedded(ids_T), []
        bias_HTT = self._bias(len(ids_T)) if self._facts.family == "mpnet" else None
        for number in range(self._facts.layers):
            x_TI = self._layer(x_TI, f"{self._path}.{number}.", bias_HTT)
            states.append(x_TI)
        return states[-kept:]

    def _embedded(self, ids_T: NDArray[np.int32]) -> Floats:
        facts, tensors = self._facts, self._tensors
        places_T = np.arange(len(ids_T)) + facts.first_position
        if facts.uncounted is not None:  # this token has no position of its own: it takes the one before the first
            counts_T = ids_T != facts.uncounted
            places_T = np.cumsum(counts_T) * counts_T + facts.first_position - 1
        x_TE = tensors.rows(WORDS, ids_T) + tensors.rows(_POSITIONS, places_T)
        if facts.family not in UNTYPED:
            x_TE += tensors.rows(_TYPES, np.zeros(1, np.int64))
        x_TE = self._norm(x_TE, "embeddings.LayerNorm")
        norm = f"{self._path}.0.{self._modules['output_norm']}.bias"
        return x_TE if x_TE.shape[1] == len(tensors[norm]) else self._linear(x_TE, "embeddings_project")

    def _bias(self, tokens: int) -> Floats:
        """[H, T, T] of the scores of each query (rows) with each key, by their distance: as transformers' MPNetEncoder."""
        ahead_TT = np.arange(tokens) - np.arange(tokens)[:, None]
        far_TT = np.abs(ahead_TT)
        bucket_TT = np.where(far_TT < _EXACT, far_TT, _EXACT + np.searchsorted(_NEXT, far_TT, side="right"))
        bucket_TT += (_EXACT + len(_NEXT) + 1) * (ahead_TT > 0)
        bias_TTH: Floats = self._tensors[_BIAS][bucket_TT]
        return bias_TTH.transpose(2, 0, 1)

    def _layer(self, x_TI: Floats, path: str, bias_HTT: Floats | None) -> Floats:
        module = {name: path + place for name, place in self._modules.items()}
        mixed_TI = self._attention(x_TI, module, bias_HTT)
        middle_TI = self._norm(self._linear(mixed_TI, module["out"]) + x_TI, module["attention_norm"])
        wide = _ACTIVATIONS[self._facts.activation](self._linear(middle_TI, module["up"]))
        return self._norm(self._linear(wide, module["down"]) + middle_TI, module["output_norm"])

    def _attention(self, x_TI: Floats, module: dict[str, str], bias_HTT: Floats | None) -> Floats:
        heads = self._facts.heads
        query, key, value = (
            self._linear(x_TI, module[name]).reshape(len(x_TI), heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores_HTT = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[2]))
        if bias_HTT is not None:
            scores_HTT += bias_HTT
        shares_HTT = np.exp(scores_HTT - scores_HTT.max(axis=2, keepdims=True))
        shares_HTT /= shares_HTT.sum(axis=2, keepdims=True)
        mixed_HTd: Floats = shares_HTT @ value
        return mixed_HTd.transpose(1, 0, 2).reshape(len(x_TI), -1)

    def _linear(self, x: Floats, module: str) -> Floats:
        product: Floats = x @ self._tensors[f"{module}.weight"].T
        product += self._tensors[f"{module}.bias"]
        return product

    def _norm(self, x: Floats, module: str) -> Floats:
        centred: Floats = x - x.mean(axis=1, keepdims=True)
        variance = np.square(centred).mean(axis=1, keepdims=True)
        centred /= np.sqrt(variance + np.float32(self._facts.eps))
        centred *= self._tensors[f"{module}.weight"]
        centred += self._tensors[f"{module}.bias"]
        return centred


def _gelu(x: Floats) -> Floats:
    """x / 2 (1 + erf(x / sqrt 2))."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + _ERF_STEP * z)
    series = np.zeros_like(t)
    for factor in _ERF:
        series = (series + factor) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    gelu: Floats = x * np.float32(0.5) * (1 + erf)
    return gelu


def _gelu_tanh(x: Floats) -> Floats:
    """The approximation of arXiv:1606.08415, section 2."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    gelu: Floats = x * np.float32(0.5) * (1 + np.tanh(inner))
    return gelu


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu}

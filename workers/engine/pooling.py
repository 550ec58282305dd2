"""Pooling: hidden states of a packed batch -> one float32 vector per sequence. One pure function per mode, and their table.

With h_t the hidden states of the n tokens that count, at positions p_t = 1, 2, … of the sequence:

    cls             h_1                            mean             sum h_t / n
    last_token      h_n                            mean_sqrt_len    sum h_t / sqrt(n)
    max             max h_t, by component          weighted_mean    sum p_t h_t / sum p_t
    last4_mean      mean of the mean of the last four layers
    last4_concat    the mean of layer -1, of -2, of -3, of -4, concatenated
    pooler          the model's own trained head on its first token (BERT: tanh(W h_1 + b))

The first six are those of sentence-transformers' Pooling; weighted_mean is SGPT's (arXiv:2202.08904). The last4 modes follow
the feature-based experiments of BERT (arXiv:1810.04805, table 7).

There is no padding to mask. Tokens of an excluded prompt form segments of their own, which are dropped. So do tokens between
late chunks. p_t of a late chunk's tokens are their positions in the whole input, not in the chunk. Sums are taken in
float32: pooled in half precision, vectors have a 100 times larger error. The mean on CUDA is one kernel, which reads states
in half precision; other modes are given float32. Knows nothing of models.

Shapes: B sequences, T tokens of the batch concatenated, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.config import Pooling
from workers.records.tokens import TokenizedTexts

KEPT_LAYERS = 4  # that the last4 modes need


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Output of a forward pass, in float32; `last_TH` in half precision where `pools_half`.

    `layers` and `pooler_BH` only if a mode needs them (see needs_*).
    """

    last_TH: Tensor
    starts_B: Tensor  # int64, first token of each row that counts (after an excluded prompt); at most its end
    ends_B: Tensor  # int64, one past its last token
    skip: int = 0  # leading tokens of every sequence that do not count
    layers: tuple[Tensor, ...] = ()  # the last four [T, H], deepest last
    pooler_BH: Tensor | None = None
    inputs_S1: Tensor | None = None  # where several rows are pooled from an input of the model: borders of the S inputs

    @property
    def counts_B1(self) -> Tensor:
        """[B, 1] number of tokens that count, at least 1: the divisor of a mean."""
        return (self.ends_B - self.starts_B).clamp(min=1).unsqueeze(-1).to(torch.float32)


def pool(hidden: HiddenStates, modes: tuple[Pooling, ...]) -> Tensor:
    """[B, sum of the modes' sizes]: the pooled vectors of all modes, concatenated in their order.

    A sequence without tokens that count gives zeros (means) or a vector that is not finite (max); both are quarantined.

    Raises:
        ValueError: pooling=pooler, and the model has no pooler output.
    """
    pooled = [_POOLINGS[mode](hidden) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def pools_half(modes: tuple[Pooling, ...], device: torch.device) -> bool:
    """Whether `pool` takes the last layer's states in half precision on this device, and sums them in float32 itself."""
    if modes != (Pooling.MEAN,) or device.type != "cuda":
        return False
    from workers.engine.kernels import triton_rows  # imports Triton, if there is one

    return triton_rows.why_unusable(device) is None


def needs_layers(modes: tuple[Pooling, ...]) -> bool:
    """Whether HiddenStates.layers is needed."""
    return Pooling.LAST4_MEAN in modes or Pooling.LAST4_CONCAT in modes


def needs_pooler(modes: tuple[Pooling, ...]) -> bool:
    """Whether HiddenStates.pooler_BH is needed."""
    return Pooling.POOLER in modes


def _reduce(states_TH: Tensor, hidden: HiddenStates, how: str) -> Tensor:
    """[B, H]: reduction over the tokens of each sequence, in their order, so deterministic on CUDA as well."""
    borders = torch.cat([hidden.starts_B.new_zeros(1), hidden.ends_B])
    if not hidden.skip and hidden.inputs_S1 is None:
        return torch.segment_reduce(states_TH, how, offsets=borders, axis=0)
    skipped = torch.stack([borders[:-1], hidden.starts_B], dim=1).flatten()  # prompt, text, prompt, text, …
    behind = borders[-1:] if hidden.inputs_S1 is None else torch.cat([borders[-1:], hidden.inputs_S1[-1:]])
    return torch.segment_reduce(states_TH, how, offsets=torch.cat([skipped, behind]), axis=0)[1::2]


def _mean_of(states_TH: Tensor, hidden: HiddenStates) -> Tensor:
    return _reduce(states_TH, hidden, "sum") / hidden.counts_B1


def _cls(hidden: HiddenStates) -> Tensor:
    """The first token that counts: [CLS], or the first after an excluded prompt."""
    return hidden.last_TH[torch.minimum(hidden.starts_B, hidden.ends_B - 1)]


def _mean(hidden: HiddenStates) -> Tensor:
    if hidden.last_TH.dtype is not torch.float32:  # see pools_half
        from workers.engine.kernels import triton_rows

        return triton_rows.segment_mean(hidden.last_TH.contiguous(), hidden.starts_B, hidden.ends_B)
    return _mean_of(hidden.last_TH, hidden)


def _max(hidden: HiddenStates) -> Tensor:
    return _reduce(hidden.last_TH, hidden, "max")


def _mean_sqrt_len(hidden: HiddenStates) -> Tensor:
    return _reduce(hidden.last_TH, hidden, "sum") / hidden.counts_B1.sqrt()


def _weighted_mean(hidden: HiddenStates) -> Tensor:
    """Weights are positions 1, 2, … in the sequence. Excluding a prompt does not change the positions of other tokens."""
    ends_S = hidden.ends_B if hidden.inputs_S1 is None else hidden.inputs_S1[1:]
    first_S = torch.cat([ends_S.new_zeros(1), ends_S[:-1]])
    tokens = len(hidden.last_TH)  # known here: CUDA would be asked, and waited for, how long the repetition is
    first_T = torch.repeat_interleave(first_S, ends_S - first_S, output_size=tokens)
    position_T = torch.arange(1, tokens + 1, device=first_S.device) - first_T
    weights_T1 = position_T.to(torch.float32).unsqueeze(-1)
    return _reduce(hidden.last_TH * weights_T1, hidden, "sum") / _reduce(weights_T1, hidden, "sum").clamp(min=1)


def _last_token(hidden: HiddenStates) -> Tensor:
    return hidden.last_TH[hidden.ends_B - 1]


def _pooler(hidden: HiddenStates) -> Tensor:
    """The output of the model's own head."""
    if hidden.pooler_BH is None:
        raise ValueError("the model gave no pooler output")
    return hidden.pooler_BH


def _last4_mean(hidden: HiddenStates) -> Tensor:
    """Mean over tokens of the average of the last four layers."""
    return _mean_of(torch.stack(hidden.layers).mean(dim=0), hidden)


def _last4_concat(hidden: HiddenStates) -> Tensor:
    """Mean-pooled last four layers side by side, the last layer first."""
    return torch.cat([_mean_of(layer_TH, hidden) for layer_TH in reversed(hidden.layers)], dim=-1)


_POOLINGS: dict[Pooling, Callable[[HiddenStates], Tensor]] = {
    Pooling.CLS: _cls,
    Pooling.MEAN: _mean,
    Pooling.MEAN_LSTM: _mean,  # last_TH is the LSTM's output here
    Pooling.MAX: _max,
    Pooling.MEAN_SQRT_LEN: _mean_sqrt_len,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.LAST_TOKEN: _last_token,
    Pooling.POOLER: _pooler,
    Pooling.LAST4_MEAN: _last4_mean,
    Pooling.LAST4_CONCAT: _last4_concat,
}


def finished(vectors: Tensor, dim: int, *, normalize: bool) -> Tensor:
    """[..., D'] -> [..., dim]: truncate_dim, then unit length where the recipe has it. The last step of every encoder."""
    vectors = vectors[..., :dim]
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors.contiguous()


def mean_of_chunks(vectors_ND: Tensor, tokens: TokenizedTexts) -> Tensor:
    """[documents, D]: the mean of the vectors of each document's chunks, weighted by their tokens, summed in float64."""
    if not len(tokens.document):
        return vectors_ND
    weights_N1 = tokens.lengths.astype(np.float64)[:, None]
    starts = np.flatnonzero(np.diff(tokens.document, prepend=-1))  # every document has at least one sequence
    sums = np.add.reduceat(vectors_ND.numpy() * weights_N1, starts, axis=0)
    totals = np.add.reduceat(weights_N1, starts, axis=0)
    with np.errstate(invalid="ignore"):  # a document of empty sequences: 0 / 0, NaN, quarantined
        return torch.from_numpy((sums / totals).astype(np.float32))

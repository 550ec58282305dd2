"""Sparse vectors: hidden states -> logits of a masked language model -> one weight for each token of the vocabulary.

With z_tv the logit of vocabulary token v at token t of the text, special tokens included, and f = log1p(relu(z)):

    max    w_v = max f(z_tv) over t   (SPLADE v2, arXiv:2109.10086)      relu         f as above
    sum    w_v = sum f(z_tv) over t   (SPLADE, arXiv:2107.05720)         log1p_relu   log1p(f) (arXiv:2504.14839)

as in sentence-transformers' SpladePooling. The head is transformers' own module, in float32. Logits of all tokens of a batch
would be large (2,048 tokens, 30,522 words: 250 MB), so they are made and pooled slice by slice, whole texts at a time.

    SparseHead   one model's head, on one device
    SparseRows   the vectors of one call: what is not zero, the largest `top` of each row

Shapes: B texts, T tokens of the batch concatenated, H hidden size, D words of the vocabulary, V entries that are not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.checkpoint import load_transformer
from workers.model.modules import SparsePooling
from workers.records.tokens import EncodedTexts

SLICE_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 29}  # 128 MiB and 2 GiB in float32, beside a text that is longer alone


class SparseHead:
    """The head of the masked language model in `folder`; `name` is the model's name for messages."""

    def __init__(self, folder: Path, name: str, settings: SparsePooling) -> None:
        """Raises: UsageError: weights are missing, damaged, or not finite."""
        self._settings = settings
        model = load_transformer(folder, name, dtype="float32", with_pooler=False, masked_lm=True)
        self._modules, self._logits = _head_of(model)

    def to(self, device: torch.device) -> None:
        """Move the head to a device."""
        for module in self._modules:
            module.to(device)

    def pooled(self, states_TH: Tensor, lengths_B: NDArray[np.int64]) -> Tensor:
        """[B, D] in float32, of concatenated texts of `lengths_B` tokens, at least one each."""
        most = max(SLICE_LOGITS.get(states_TH.device.type, SLICE_LOGITS["cpu"]) // self._settings.vocabulary, 1)
        out_BD = states_TH.new_empty((len(lengths_B), self._settings.vocabulary))
        ends_B = np.cumsum(lengths_B)
        for first, behind in _slices(lengths_B, most):
            start = int(ends_B[first] - lengths_B[first])
            logits_TD = self._logits(states_TH[start : int(ends_B[behind - 1])])
            for row in range(first, behind):  # a reduction of its own each: a text's weights depend on its tokens alone
                end = int(ends_B[row]) - start
                out_BD[row] = self._pool(logits_TD[end - int(lengths_B[row]) : end])
        return out_BD if self._settings.strategy == "sum" else self._activated(out_BD)

    def _pool(self, logits_TD: Tensor) -> Tensor:
        """Of the largest logit f is the largest, so f is taken once a text. amax and sum pass NaN on."""
        return self._activated(logits_TD).sum(dim=0) if self._settings.strategy == "sum" else logits_TD.amax(dim=0)

    def _activated(self, logits: Tensor) -> Tensor:
        weights = logits.relu().log1p_()
        return weights.log1p_() if self._settings.activation == "log1p_relu" else weights


class Kept(NamedTuple):
    """The entries of some rows end to end, ascending by index within a row."""

    weights: NDArray[np.float32]  # [V]
    indices: NDArray[np.int32]  # [V]
    counts: NDArray[np.int64]  # [B]


def kept(dense_BD: NDArray[np.float32], top: int | None) -> Kept:
    """The entries that are not zero; of more than `top` in a row the largest, of equal ones those of the lower indices."""
    row_V, index_V = np.nonzero(dense_BD)
    return _kept(row_V, index_V, dense_BD[row_V, index_V], len(dense_BD), top)


def _kept(
    row_V: NDArray[np.int64], index_V: NDArray[np.int64], weight_V: NDArray[np.float32], rows: int, top: int | None
) -> Kept:
    """As `kept`, of entries by row and then by index."""
    counts = np.bincount(row_V, minlength=rows).astype(np.int64)
    if top is not None and (counts > top).any():
        stays_V, ends = np.ones(len(row_V), np.bool_), np.cumsum(counts)
        for row in np.flatnonzero(counts > top):
            own = slice(ends[row] - counts[row], ends[row])
            stays_V[own] = _largest(weight_V[own], top)
        weight_V, index_V, counts = weight_V[stays_V], index_V[stays_V], np.minimum(counts, top)
    return Kept(weight_V, index_V.astype(np.int32), counts)


class SparseRows:
    """The vectors of one call, row by row. A row that is never added has one entry, NaN."""

    def __init__(self, rows: int, top: int | None) -> None:
        self._top = top
        self._counts = np.ones(rows, np.int64)
        self._pieces: list[tuple[NDArray[np.int64], Kept]] = []

    def add(self, vectors: Tensor, rows: NDArray[np.int64]) -> None:
        """The vectors [B, D] of these rows. On CUDA it waits for them: how many entries they have is not known before."""
        place_V2 = vectors.nonzero()  # on the device: the zeros are not copied. NaN is no zero
        weight_V = vectors[place_V2[:, 0], place_V2[:, 1]].cpu().numpy()
        row_V, index_V = place_V2.cpu().numpy().T
        found = _kept(row_V, index_V, weight_V, len(vectors), self._top)
        self._counts[rows] = found.counts
        self._pieces.append((rows, found))

    def encoded(self, padded_tokens: int, refused: Mapping[int, str]) -> EncodedTexts:
        """All rows; the arguments are EncodedTexts'."""
        weights, indices, offsets = self.all()
        return EncodedTexts(weights[:, None], offsets, padded_tokens, refused, indices=indices)

    def all(self) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
        """(weights [V], indices [V], offsets [rows + 1])."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
        weights, indices = np.full(offsets[-1], np.nan, np.float32), np.zeros(offsets[-1], np.int32)
        for rows, found in self._pieces:
            starts = np.cumsum(found.counts) - found.counts
            places = np.repeat(offsets[rows] - starts, found.counts) + np.arange(len(found.weights))
            weights[places], indices[places] = found.weights, found.indices
        return weights, indices, offsets


def _largest(weights_V: NDArray[np.float32], top: int) -> NDArray[np.bool_]:
    """[V] whether a weight is among the `top` largest."""
    stays: NDArray[np.bool_]
    if not (finite_V := np.isfinite(weights_V)).all():  # the text overflowed, which what is kept must show
        stays = np.zeros(len(weights_V), np.bool_)
        stays[np.argsort(finite_V, kind="stable")[:top]] = True
        return stays
    least = np.partition(weights_V, -top)[-top]
    stays = weights_V > least
    stays[np.flatnonzero(weights_V == least)[: top - int(stays.sum())]] = True
    return stays


def _slices(lengths_B: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """(first, behind the last) text of each slice: as many as have `most` tokens, one at least."""
    first, tokens = 0, 0
    for row, length in enumerate(lengths_B.tolist()):
        if row > first and tokens + length > most:
            yield first, row
            first, tokens = row, 0
        tokens += length
    if first < len(lengths_B):
        yield first, len(lengths_B)


def _head_of(model: Any) -> tuple[list[Any], Callable[[Tensor], Tensor]]:
    """(its modules, states -> logits) of transformers' class for the task; families without one have been refused."""
    family = model.config.model_type
    if family == "bert":
        return [model.cls], model.cls
    if family == "distilbert":
        chain = [model.vocab_transform, model.activation, model.vocab_layer_norm, model.vocab_projector]
    elif family == "electra":
        chain = [model.generator_predictions, model.generator_lm_head]
    elif family == "modernbert":
        chain = [model.head, model.decoder]
    else:
        return [model.lm_head], model.lm_head
    return [module for module in chain if isinstance(module, torch.nn.Module)], _chained(chain)


def _chained(chain: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def logits(states: Tensor) -> Tensor:
        for module in chain:
            states = module(states)
        return states

    return logits

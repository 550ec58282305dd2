"""A batch of sequences as tensors without padding: all tokens concatenated, and the offset of each sequence.

Adjacent sequences of equal length are a run. On a CPU, attention computes a run as one dense block, so a batch sorted by
length needs no padding there either. This is known as unpadding (ModernBERT, arXiv:2412.13663, section 2.2)
or as variable-length attention (FlashAttention). Knows nothing of models.

Shapes: T tokens of the batch, B sequences.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.records.tokens import PooledTokens, TokenizedTexts, ranges

BLOCK_SCORES = 1 << 18  # limit of a block's attention scores per head: 6 MB in bfloat16 with twelve heads
BLOCK_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class EqualRun:
    """Tokens start to stop (exclusive) are `count` sequences of `length` tokens each."""

    start: int
    stop: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """Adjacent sequences of similar length, as a rectangle of `count` rows of `length` positions."""

    start: int  # its tokens in the batch: start to stop (exclusive)
    stop: int
    count: int
    length: int  # the longest sequence, rounded up: kernels are generated for each shape
    sources: Tensor  # [count * length] token of each position, counted from `start`; 0 for padding
    slots: Tensor | None  # [stop - start] position of each token; None: there is no padding
    real: Tensor  # [count, 1, length, 1] bfloat16: 1 for tokens, 0 for padding


@dataclass(frozen=True)
class PackedBatch:
    """A batch. Index tensors are int64 on the device; lengths and offsets are on the host, where decisions are made."""

    ids_T: Tensor
    positions_T: Tensor  # 0, 1, ... within each sequence
    lengths_B: NDArray[np.int64]
    offsets_B1: NDArray[np.int64]  # [B + 1]
    cumulative_B1: Tensor  # the same as int32 on the device, for varlen kernels

    @property
    def device(self) -> torch.device:
        return self.ids_T.device

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths_B.max(initial=0))

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return int(self.offsets_B1[-1])

    def positions_without(self, uncounted: int) -> Tensor:
        """[T] positions counted over the tokens with another id than `uncounted`; -1 for those with it."""
        counted_T = self.ids_T != uncounted
        if self.ids_T.device.type == "cpu" and bool(counted_T.all()):  # on CUDA the question would wait for the device
            return self.positions_T
        before_T = counted_T.cumsum(0) - counted_T.to(torch.int64)
        starts_B = self.cumulative_B1[:-1].to(torch.int64)
        lengths_B = self.cumulative_B1.diff().to(torch.int64)
        first_T = torch.repeat_interleave(before_T[starts_B], lengths_B, output_size=self.tokens)
        return torch.where(counted_T, before_T - first_T, -1)

    @cached_property
    def slots_T(self) -> Tensor:
        """[T] int64: the place of each token if sequences were rows of `longest` positions. On CUDA nothing waits for it."""
        rows_B = torch.arange(len(self.lengths_B), device=self.device)
        rows_T = torch.repeat_interleave(rows_B, self.cumulative_B1.diff().to(torch.int64), output_size=self.tokens)
        return self.positions_T + self.longest * rows_T

    @cached_property
    def blocks(self) -> tuple[DenseBlock, ...]:
        """The batch as blocks, cut where scores would exceed the caches or padding one eighth of a block."""
        blocks, first, count = [], 0, len(self.lengths_B)
        while first < count:
            stop, longest = first, 0
            while stop < count:
                longest = max(longest, _rounded(int(self.lengths_B[stop])))
                rows = stop + 1 - first
                tokens = int(self.offsets_B1[stop + 1] - self.offsets_B1[first])
                if stop > first and (rows * longest**2 > BLOCK_SCORES or tokens * 8 < rows * longest * 7):
                    break
                stop += 1
            blocks.append(self._block(first, stop))
            first = stop
        return tuple(blocks)

    def _block(self, first: int, stop: int) -> DenseBlock:
        lengths, count = self.lengths_B[first:stop], stop - first
        length = _rounded(int(lengths.max()))
        slots = ranges(np.arange(count) * length, lengths)
        sources, real = np.zeros(count * length, np.int64), np.zeros(count * length, np.float32)
        sources[slots], real[slots] = np.arange(len(slots)), 1.0
        start, end = int(self.offsets_B1[first]), int(self.offsets_B1[stop])
        return DenseBlock(
            start, end, count, length, torch.from_numpy(sources),
            torch.from_numpy(slots) if len(slots) < count * length else None,
            torch.from_numpy(real).to(torch.bfloat16).view(count, 1, length, 1),
        )  # fmt: skip

    @cached_property
    def runs(self) -> tuple[EqualRun, ...]:
        """The batch as runs."""
        borders = [0, *(np.flatnonzero(np.diff(self.lengths_B)) + 1).tolist(), len(self.lengths_B)]
        offsets = self.offsets_B1
        return tuple(
            EqualRun(int(offsets[first]), int(offsets[last]), last - first, int(self.lengths_B[first]))
            for first, last in itertools.pairwise(borders)
        )


def pack(tokens: TokenizedTexts, rows: NDArray[np.int64], device: torch.device) -> PackedBatch:
    """The sequences `rows` of `tokens` as a batch, in that order. Copies to a CUDA device are asynchronous."""
    lengths_B = tokens.lengths[rows]
    offsets_B1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_B)])
    total, starts = int(offsets_B1[-1]), np.zeros(len(rows), np.int64)
    host = torch.empty(2 * total, dtype=torch.int64, pin_memory=device.type == "cuda")
    host[:total] = torch.from_numpy(tokens.input_ids[ranges(tokens.offsets[rows], lengths_B)])
    host[total:] = torch.from_numpy(ranges(starts, lengths_B))
    both = host.to(device, non_blocking=True)  # ids and positions in one copy
    borders = torch.empty(len(offsets_B1), dtype=torch.int32, pin_memory=device.type == "cuda")
    borders.copy_(torch.from_numpy(offsets_B1))
    return PackedBatch(both[:total], both[total:], lengths_B, offsets_B1, borders.to(device, non_blocking=True))


def rows_of(pooled: PooledTokens, sequences: NDArray[np.int64], batch: PackedBatch, skip: int) -> tuple[Tensor, Tensor]:
    """[R] the first token in the batch of each row of these sequences, and [R] what follows its last; int64 on the device.

    `skip`: leading tokens of every sequence that no row is pooled from.
    """
    rows = pooled.of(sequences)
    start_R, end_R = np.repeat(batch.offsets_B1[:-1], pooled.counts(sequences)), pooled.end[rows]
    host = torch.empty(2 * len(rows), dtype=torch.int64, pin_memory=batch.device.type == "cuda")
    host[: len(rows)] = torch.from_numpy(start_R + np.minimum(np.maximum(pooled.first[rows], skip), end_R))
    host[len(rows) :] = torch.from_numpy(start_R + end_R)
    both = host.to(batch.device, non_blocking=True)
    return both[: len(rows)], both[len(rows) :]


def _rounded(length: int) -> int:
    return -(-length // BLOCK_MULTIPLE) * BLOCK_MULTIPLE


def borders(tokens: TokenizedTexts, rows: NDArray[np.int64], batch: PackedBatch, skip: int) -> tuple[Tensor, Tensor, int]:
    """(first token that counts of each row [B], one past its last [B], skip), as HiddenStates takes them.

    `rows`: sequences of the batch. `skip`: leading tokens of every sequence that do not count.
    """
    if tokens.pooled is not None:
        return *rows_of(tokens.pooled, rows, batch, skip), skip
    inputs_S1 = batch.cumulative_B1.to(torch.int64)
    starts_B, ends_B = inputs_S1[:-1], inputs_S1[1:]
    return torch.minimum(starts_B + skip, ends_B) if skip else starts_B, ends_B, skip


def inputs_of(tokens: TokenizedTexts, batch: PackedBatch) -> Tensor | None:
    """Borders of the inputs where several rows are pooled from one; else None."""
    return None if tokens.pooled is None else batch.cumulative_B1.to(torch.int64)

"""Cuts sequences into batches of at most `batch_tokens` tokens. A pure function of their lengths.

Sequences are sorted by length, so that a batch holds sequences of similar length: equal lengths are adjacent, and a model
that needs padding gets little. The sort is stable. Knows nothing of tokens or tensors.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Layout(StrEnum):
    """Which sequences may share a batch, and how they lie in it."""

    PACKED = "packed"  # any, one behind the other
    PADDED = "padded"  # any, as rows that are padded to the longest
    EQUAL = "equal lengths"  # those of one length, as rows: for models in which padding changes the other tokens
    SINGLE = "one by one"  # none: a sequence is a batch


def plan_batches(lengths: NDArray[np.int64], batch_tokens: int, layout: Layout) -> list[NDArray[np.int64]]:
    """Cut sequences into batches, longest first, so that a limit too large for the device fails with the first batch.

    Args:
        lengths: [N] tokens of each sequence.
        batch_tokens: limit of a batch's positions, as counted by `positions`; a longer sequence gets a batch of its own.

    Returns:
        Index arrays into `lengths`, together a permutation of 0..N-1.

    Raises:
        ValueError: `batch_tokens` is not positive.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be positive, not {batch_tokens}")
    order = np.argsort(-lengths, kind="stable")
    descending = -lengths[order]  # negative, so that it ascends
    ends = np.cumsum(lengths[order])
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        if layout is Layout.PACKED:
            done = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, done + batch_tokens, side="right"))
        elif layout is Layout.SINGLE:
            stop = start + 1
        else:
            stop = start + batch_tokens // max(int(lengths[order[start]]), 1)
        if layout is Layout.EQUAL:
            stop = min(stop, int(np.searchsorted(descending, descending[start], side="right")))
        stop = min(max(stop, start + 1), len(order))
        batches.append(order[start:stop])
        start = stop
    return batches


def mixed_batches(lengths: NDArray[np.int64], rows: int) -> list[NDArray[np.int64]]:
    """Batches of at most `rows` sequences with long and short ones in each: as much padding as batches can have."""
    order = np.argsort(-lengths, kind="stable")
    count = -(-len(order) // rows)
    return [order[first::count] for first in range(count)]


def positions(lengths: NDArray[np.int64], layout: Layout) -> int:
    """Positions that the device computes for a batch of these lengths: their sum, or with padding count * longest."""
    return int(lengths.sum()) if layout is Layout.PACKED else int(lengths.max(initial=0)) * len(lengths)

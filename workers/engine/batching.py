"""Cuts sequences into batches of at most `batch_tokens` tokens. A pure function of their lengths.

Sequences are sorted by length, so that a batch holds sequences of similar length: equal lengths are adjacent, and a model
that needs padding gets little. The sort is stable. Knows nothing of tokens or tensors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def plan_batches(lengths: NDArray[np.int64], batch_tokens: int, *, packed: bool) -> list[NDArray[np.int64]]:
    """Cut sequences into batches, longest first, so that a limit too large for the device fails with the first batch.

    Args:
        lengths: [N] tokens of each sequence.
        batch_tokens: limit of a batch's positions, as counted by `positions`; a longer sequence gets a batch of its own.
        packed: whether batches are computed without padding.

    Returns:
        Index arrays into `lengths`, together a permutation of 0..N-1.

    Raises:
        ValueError: `batch_tokens` is not positive.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be positive, not {batch_tokens}")
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        if packed:
            done = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, done + batch_tokens, side="right"))
        else:
            stop = start + batch_tokens // max(int(lengths[order[start]]), 1)
        stop = min(max(stop, start + 1), len(order))
        batches.append(order[start:stop])
        start = stop
    return batches


def positions(lengths: NDArray[np.int64], *, packed: bool) -> int:
    """Positions that the device computes for a batch of these lengths: their sum, or with padding count * longest."""
    return int(lengths.sum()) if packed else int(lengths.max(initial=0)) * len(lengths)

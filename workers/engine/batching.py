"""Sequence lengths -> batches within a token budget. Pure arithmetic: the same lengths give the same batches, always.

Sequences are sorted by length so that a batch holds neighbours: equal lengths stand side by side, and where a model must
be padded there is hardly any padding. Ties keep their order. Knows nothing of tokens or tensors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def plan_batches(lengths: NDArray[np.int64], batch_tokens: int, *, packed: bool) -> list[NDArray[np.int64]]:
    """Cut sequences into batches, longest first (so that a budget too large for the device shows at once).

    Args:
        lengths: [N] tokens of each sequence.
        batch_tokens: most positions of a batch, by `positions`; a single sequence longer than that stands alone.
        packed: batches are computed without padding.

    Returns:
        Index arrays into `lengths`, together a permutation of 0..N-1.

    Raises:
        ValueError: the budget is not positive.
    """
    if batch_tokens < 1:
        raise ValueError(f"token budget must be positive, not {batch_tokens}")
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
    """Positions the device computes for a batch of these lengths: their sum, or the rectangle around them."""
    return int(lengths.sum()) if packed else int(lengths.max(initial=0)) * len(lengths)

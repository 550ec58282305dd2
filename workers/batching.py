"""Sequence lengths -> batches within a token budget. Pure arithmetic: the same lengths give the same batches, always.

Sequences are sorted by length so that a batch holds neighbours and hardly any padding; ties keep their order. A batch
costs its longest sequence times its count, which is what the device pays for. Knows nothing of tokens or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def plan_batches(lengths: NDArray[np.int64], token_budget: int) -> list[NDArray[np.int64]]:
    """Cut sequences into batches, longest first (so that a budget too large for the device shows at once).

    Args:
        lengths: [N] tokens of each sequence.
        token_budget: most padded tokens of a batch; a single sequence longer than that stands alone.

    Returns:
        Index arrays into `lengths`, together a permutation of 0..N-1.

    Raises:
        ValueError: the budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"token budget must be positive, not {token_budget}")
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        count = max(token_budget // longest, 1)
        batches.append(order[start : start + count])
        start += count
    return batches


def padded_tokens(lengths: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]) -> int:
    """Positions computed for these batches, padding included."""
    return sum(int(lengths[batch].max()) * len(batch) for batch in batches)

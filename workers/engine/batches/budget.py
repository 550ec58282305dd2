"""Chooses batch_tokens, the limit of a batch, for `model.batch_tokens: auto`.

On a CPU it is fixed: matrix products are as fast at 1,000 tokens as at 8,000, and larger batches do not fit into the caches.
On CUDA several values are timed, and the largest within one percent of the fastest is taken; none below ENOUGH_TOKENS where
the device has the memory. The sweep runs in a quiet process; at work the interpreter is shared with threads that read,
tokenise and write. Launching a pass then takes several times as long, and only a large batch hides it. The first replica of
a run chooses for all, so that every attempt at a shard computes the same batches.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from workers.engine.batches.plan import Layout, plan_batches
from workers.engine.kernels.packing import PackedBatch, pack
from workers.engine.ways.interface import Forward
from workers.records.tokens import TokenizedTexts

CPU_TOKENS = 2048
CUDA_TOKENS = (16384, 32768, 65536, 131072)
ENOUGH_TOKENS = 65536  # 5 ms of MiniLM on an H100: as long as launching its pass takes beside busy threads
_NEARLY = 0.99  # a larger limit is preferred if it reaches this share of the best rate
_ROUNDS = 3


def choose_batch_tokens(forward: Forward, golden: TokenizedTexts, device: torch.device) -> int:
    """Tokens of a batch on this device, timed with the golden texts on CUDA."""
    return sweep(forward, golden, device, CUDA_TOKENS, ENOUGH_TOKENS) if device.type == "cuda" else CPU_TOKENS


def sweep(forward: Forward, golden: TokenizedTexts, device: torch.device, budgets: tuple[int, ...], enough: int = 0) -> int:
    """The largest of `budgets` (ascending, in tokens) that is nearly as fast as the fastest that fits into memory.

    Those below `enough` are tried only if no other fits. If none fits, half of the smallest.
    """
    large, small = ([budget for budget in budgets if (budget >= enough) is wanted] for wanted in (True, False))
    rates = _rates(forward, golden, device, large) or _rates(forward, golden, device, small)
    best = max(rates.values(), default=0.0)
    return max((budget for budget, rate in rates.items() if rate >= _NEARLY * best), default=budgets[0] // 2)


@torch.inference_mode()
def _rates(forward: Forward, golden: TokenizedTexts, device: torch.device, budgets: list[int]) -> dict[int, float]:
    """Tokens a second of those `budgets` (ascending) that fit into memory."""
    rates: dict[int, float] = {}
    for budget in budgets:
        try:
            batch = _of_size(golden, budget, device, forward.layout)
            seconds = [_timed(forward, batch, device) for _ in range(_ROUNDS + 1)][1:]  # the first warms up
        except torch.OutOfMemoryError:
            break
        rates[budget] = batch.tokens / min(seconds)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rates


def _timed(forward: Forward, batch: PackedBatch, device: torch.device) -> float:
    began = time.perf_counter()
    forward(batch, layers=0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _of_size(golden: TokenizedTexts, budget: int, device: torch.device, layout: Layout) -> PackedBatch:
    """A batch of up to `budget` tokens: the golden sequences, repeated as often as needed, longest first."""
    rows = np.flatnonzero(golden.lengths)
    rows = np.tile(rows, -(-budget // int(golden.lengths[rows].sum())))
    together = layout if layout in (Layout.EQUAL, Layout.SINGLE) else Layout.PACKED
    return pack(golden, rows[plan_batches(golden.lengths[rows], budget, together)[0]], device)

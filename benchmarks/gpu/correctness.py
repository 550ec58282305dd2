"""Are the results right on this device? Each check that fails is named under "failed_checks".

golden     the product's own proof, which `load` has passed: the precision and the way that it settled on
lengths    vectors against float32 on this device, padded, by transformers: over all lengths, not over the frequent ones
varlen     the kernel for attention over packed tokens against float64, a sequence at a time
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.device import CUDA, DEVICE, HALF
from benchmarks.gpu.session import FAILED_CHECKS
from benchmarks.gpu.subject import Subject
from benchmarks.models import chosen, over_all_lengths, running
from workers.engine.kernels.attention import by_runs, varlen
from workers.engine.kernels.packing import pack
from workers.engine.precision import TOLERANCES
from workers.engine.ways.padded import Padded
from workers.table.vectors import cosines

TEXTS, SMOKE_TEXTS = 1000, 12
PADDED_TOKENS = 16384  # a mask and four times the bytes: less fits
HEADS = (32, 64)  # components of MiniLM's heads, and of BERT's
LEAST_COSINE = 0.9999  # of float16, over texts of all lengths
MOST_ERROR = {torch.float16: 2e-3, torch.float32: 1e-5}  # of attention, relative; float16 rounds at 5e-4


def correctness(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Section, of a model."""
    encoder = subject.loaded
    padded = encoder.way in ("padded", "equal", "single")
    yield "golden", {
        "device": str(encoder.device), "precision": encoder.precision.value, "way": encoder.way,
        FAILED_CHECKS: [f"the way is {encoder.way}"] if CUDA and padded else [],
    }  # fmt: skip
    yield "lengths", _lengths(subject)
    for size in HEADS:
        yield f"varlen, {size} components a head", _attention(subject, size)


def _lengths(subject: Subject) -> dict[str, Any]:
    encoder = subject.loaded
    some = chosen(subject.tokens, over_all_lengths(subject.tokens, SMOKE_TEXTS if subject.smoke else TEXTS))
    exact = running(encoder, Padded(subject.bench.transformer(encoder, "float32")))
    exact.batch_tokens = min(encoder.batch_tokens, PADDED_TOKENS)
    found = cosines(encoder.encode(some).vectors, exact.encode(some).vectors)
    tolerance = TOLERANCES[encoder.precision]
    least = LEAST_COSINE if encoder.precision.value == "float16" else tolerance.least
    wrong = []
    if not np.isfinite(found).all():
        wrong.append(f"{int((~np.isfinite(found)).sum())} vectors are not finite")
    elif found.min() < least or found.mean() < tolerance.mean:
        wrong.append(f"cosine of {encoder.precision.value}: least {found.min():.6f}, mean {found.mean():.6f}")
    return {
        "texts": len(some.lengths), "lengths": len(np.unique(some.lengths)), "shortest": int(some.lengths.min()),
        "longest": int(some.lengths.max()), "cosine_min": round(float(np.nanmin(found)), 7),
        "cosine_mean": round(float(np.nanmean(found)), 7), FAILED_CHECKS: wrong,
    }  # fmt: skip


@torch.inference_mode()
def _attention(subject: Subject, size: int, heads: int = 4, scale: float = 0.3) -> dict[str, Any]:
    batch = pack(subject.tokens, np.arange(min(50, len(subject.tokens.lengths))), DEVICE)
    query, key, value = torch.randn(3, batch.tokens, heads, size, device=DEVICE, dtype=HALF).unbind(0)
    kernel = varlen if CUDA else by_runs
    got = kernel(query, key, value, batch, scale).reshape(batch.tokens, heads, size).double()
    worst = 0.0
    borders = batch.cumulative_B1.tolist()
    for start, stop in itertools.pairwise(borders):
        q, k, v = (part[start:stop].double().transpose(0, 1) for part in (query, key, value))
        exact = ((q @ k.transpose(1, 2) * scale).softmax(-1) @ v).transpose(0, 1)
        worst = max(worst, float((got[start:stop] - exact).norm() / exact.norm()))
    limit = MOST_ERROR[HALF]
    return {
        "kernel": kernel.__name__, "sequences": len(borders) - 1, "worst_relative_error": worst,
        FAILED_CHECKS: [f"differs by {worst:.1e}"] if not worst <= limit else [],
    }  # fmt: skip

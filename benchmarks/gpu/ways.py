"""Every way to run the model on this device, side by side: those that the product offers, and float8 where it has it.

For each: cosines to transformers in float32, seconds until its first vectors (compilers take a while), tokens/s of one
forward pass by token budget, and two times of that pass: until the launching thread is free again, and until the results are
there. Where the first is near the second, the device waits for the host. The kernels of one pass are in the result, the
longest first, and as the profiler's own table in kernels_MODEL.txt.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.correctness import PADDED_TOKENS
from benchmarks.gpu.device import CUDA, DEVICE, synchronize, timed
from benchmarks.gpu.session import FAILED_CHECKS
from benchmarks.gpu.subject import Subject
from benchmarks.models import chosen, over_all_lengths, running
from workers.config import Precision
from workers.engine.checkpoint import Checkpoint
from workers.engine.precision import TOLERANCES
from workers.engine.self_check import SelfCheck
from workers.engine.ways.interface import Forward
from workers.engine.ways.padded import Padded
from workers.engine.ways.supported import unpadded_ways
from workers.model.golden import GOLDEN_TEXTS
from workers.table.vectors import cosines

TEXTS, SMOKE_TEXTS = 500, 8
KERNELS = 12  # in the result; the profiler's table has more
PASSES = 3  # under the profiler
_Make = Callable[[], Forward]


def ways(subject: Subject, out: Path, *, compiled: bool) -> Iterator[tuple[str, Any]]:
    """Section, of a model. `compiled`: torch.compile as well, which takes a minute. A way that fails says why."""
    encoder = subject.loaded
    some = chosen(subject.tokens, over_all_lengths(subject.tokens, SMOKE_TEXTS if subject.smoke else TEXTS))
    exact = running(encoder, Padded(subject.bench.transformer(encoder, "float32")))
    exact.batch_tokens = PADDED_TOKENS
    reference = exact.encode(some).vectors
    for title, precision, make in _candidates(subject, compiled=compiled):
        try:
            began = time.perf_counter()
            with torch.inference_mode():
                forward = make()
            other = running(encoder, forward)
            vectors = other.encode(some).vectors
            found = _quality(vectors, reference, precision)
            found["until_first_vectors_s"] = round(time.perf_counter() - began, 1)
            found |= {str(budget): _speed(subject, forward, budget) for budget in subject.budgets}
            found["kernels"] = _kernels(subject, title, forward, out)
        except Exception as error:  # noqa: BLE001 - the other ways are worth as much
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        yield title, found
        if CUDA:
            torch.cuda.empty_cache()


def _candidates(subject: Subject, *, compiled: bool) -> Iterator[tuple[str, Precision, _Make]]:
    """The product's ways, in its order, in the precision that this device settled on; then float8.

    A CPU stands in for CUDA with its own ways and with those that CUDA would have.
    """
    settled = subject.loaded.precision
    folder = subject.bench.files.folder / subject.bench.recipe.transformer
    checkpoint = Checkpoint(folder, subject.title, with_pooler=False)
    asked = [(settled, CUDA)] if CUDA else [(Precision.FLOAT32, False), (Precision.BFLOAT16, True)]
    if CUDA:
        asked.append((Precision.FLOAT8, True))
    golden = subject.bench.tokenizer.tokenize(GOLDEN_TEXTS)
    for precision, cuda in asked:
        check = SelfCheck(checkpoint, golden, precision, DEVICE, subject.loaded._golden_vectors)
        for way in unpadded_ways(checkpoint, cuda=cuda, precision=precision, compiled=compiled):
            yield f"{way.__name__} {precision.value}", precision, functools.partial(check._build, way, precision)


def _quality(vectors: np.ndarray, reference: np.ndarray, precision: Precision) -> dict[str, Any]:
    found, tolerance = cosines(vectors, reference), TOLERANCES[precision]
    least, mean = float(np.nan_to_num(found).min()), float(np.nan_to_num(found).mean())
    right = least >= tolerance.least and mean >= tolerance.mean
    wrong = [] if right or not CUDA else [f"cosine to float32: least {least:.6f}, mean {mean:.6f}"]
    return {"cosine_min": round(least, 6), "cosine_mean": round(mean, 6), FAILED_CHECKS: wrong}


@torch.inference_mode()
def _speed(subject: Subject, forward: Forward, budget: int) -> dict[str, Any]:
    try:
        batch = subject.batch(budget, forward.layout)
        rounds, warm = (1, 0) if subject.smoke else (5, 2)
        timing = timed(lambda: forward(batch, layers=0), rounds, warm)
    except torch.OutOfMemoryError:
        return {"note": "does not fit"}
    return {
        "Mtok_s": round(batch.tokens / timing.whole / 1e6, 4), "host_ms": round(1e3 * timing.host, 3),
        "whole_ms": round(1e3 * timing.whole, 3), "ns_a_token": round(1e9 * timing.whole / batch.tokens, 2),
        "TFLOP_s": round(batch.tokens / timing.whole * subject.flop / 1e12, 4),
    }  # fmt: skip


@torch.inference_mode()
def _kernels(subject: Subject, title: str, forward: Forward, out: Path) -> list[dict[str, Any]]:
    """The operators of a CPU where there are no kernels."""
    passes = 1 if subject.smoke else PASSES
    batch = subject.batch(subject.budgets[-2], forward.layout)
    forward(batch, layers=0)
    with profile(activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if CUDA else [])) as seen:
        for _ in range(passes):
            forward(batch, layers=0)
        synchronize()
    averages = seen.key_averages()
    key = "self_device_time_total" if CUDA else "self_cpu_time_total"
    text = averages.table(sort_by=key, row_limit=40, max_name_column_width=100)
    with (out / f"kernels_{subject.title.split(',')[0].replace('/', '_')}.txt").open("a") as file:
        file.write(f"== {title}, {passes} passes over {batch.tokens} tokens\n{text}\n")
    events = [event for event in averages if not CUDA or event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: float(getattr(event, key)), reverse=True)
    total = sum(float(getattr(event, key)) for event in events) or 1.0
    return [
        {
            "name": event.key[:100], "calls": event.count // passes, "share": round(float(getattr(event, key)) / total, 4),
            "ns_a_token": round(1e3 * float(getattr(event, key)) / passes / batch.tokens, 3),
        }
        for event in events[:KERNELS]
    ]  # fmt: skip

"""sentence-transformers on this device, texts in, vectors out, beside ours: half precision, each at its best batch size.

Flash attention where the package flash_attn is installed, which makes it padding-free; else torch's SDPA. Texts are sorted
by length for everybody. float32 is not run: that it is several times slower is known.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.device import CUDA, HALF
from benchmarks.gpu.subject import Subject, expected_rate
from workers.table.vectors import cosines

BATCH_SIZES, SMOKE_BATCH_SIZES = (256, 1024), (8,)
SECONDS, SMOKE_SECONDS = 4.0, 0.05  # of work for ours, about; the corpus once at most
ROUNDS = 3  # of ours, which is over in a moment; the first warms up
TUNING_SHARE = 8  # a batch size is chosen on every eighth text


def peers(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Section, of a model."""
    if subject.encoder is None:
        subject.load()
    encoder, bench = subject.loaded, subject.bench
    rate = subject.rate or expected_rate(subject.flop) / 4
    seconds = SMOKE_SECONDS if subject.smoke else SECONDS
    documents = int(seconds * rate / (len(subject.tokens.input_ids) / len(subject.texts)))
    texts = sorted(subject.texts[: max(documents, 8)], key=len, reverse=True)
    total = int(bench.tokenizer.tokenize(texts).num_tokens.sum())
    runs = [_timed(lambda: encoder.encode(bench.tokenizer.tokenize(texts)).vectors) for _ in range(ROUNDS)]
    vectors, ours = runs[0][0], statistics.median(seconds for _, seconds in runs)
    yield "reembed", {"texts": len(texts), "tokens": total, "Mtok_s": round(total / ours / 1e6, 4)}
    attention = ["sdpa"] + (["flash_attention_2"] if CUDA and importlib.util.find_spec("flash_attn") else [])
    for kind in attention:
        yield f"sentence-transformers {str(HALF)[6:]}, {kind}", _opponent(subject, kind, texts, total, vectors, ours)
    if len(attention) == 1:
        yield "note", "flash_attn is not installed: sentence-transformers with SDPA alone"


def _opponent(
    subject: Subject, attention: str, texts: list[str], total: int, vectors: np.ndarray, ours: float
) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    settings = {"model_kwargs": {"dtype": HALF, "attn_implementation": attention}}
    model = SentenceTransformer(str(subject.bench.folder), device="cuda" if CUDA else "cpu", **settings)
    part = texts[::TUNING_SHARE] if len(texts) > TUNING_SHARE else texts
    tuned: dict[int, float] = {}
    for size in SMOKE_BATCH_SIZES if subject.smoke else BATCH_SIZES:
        if not subject.smoke:
            _encode(model, part, size)  # warm
        tuned[size] = _timed(lambda size=size: _encode(model, part, size))[1]
    best = min(tuned, key=lambda size: tuned[size])
    found, seconds = _timed(lambda: _encode(model, texts, best))
    alike = cosines(np.asarray(found, np.float32), vectors)
    return {
        "batch_size": best, "tuned_seconds": {str(size): round(value, 3) for size, value in tuned.items()},
        "Mtok_s": round(total / seconds / 1e6, 4), "ours_times_as_fast": round(seconds / ours, 2),
        "cosine_min_to_ours": round(float(alike.min()), 6),
    }  # fmt: skip


def _encode(model: Any, texts: list[str], size: int) -> np.ndarray:
    with torch.inference_mode():
        return model.encode(texts, batch_size=size, show_progress_bar=False, convert_to_numpy=True)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began

"""The sections of benchmarks/gpu.py, one function each: (Subject, options) -> figures. Each may fail without the others.

checks      precision and way on this device; cosines to float32, padded, over all lengths
encoder     token-budget sweep, rate and share of the matrix products (MFU), of the product as it is
compiled    the packed forward through torch.compile(dynamic=True), beside the eager one
peers       sentence-transformers in half precision and float32, tuned, in rounds with ours: texts in, vectors out
end_to_end  `reembed embed` on a local Ray, file to file, and its busy share
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.compiled import CompiledPacked
from benchmarks.gemm import Peak
from benchmarks.models import Bench, chosen, over_all_lengths, repeated, running, spread
from workers.engine.encoder import Encoder
from workers.engine.ways.packed import Packed
from workers.engine.ways.padded import Padded
from workers.records.documents import WINDOW_ROWS
from workers.records.tokens import TokenizedTexts
from workers.table.vectors import cosines

LEAST_COSINE = 0.9999  # of float16 to float32


class Subject:
    """One model on this device, with the corpus in its tokens. The encoder is loaded when first asked for."""

    def __init__(self, title: str, folder: Path, table: pa.Table, options: argparse.Namespace) -> None:
        self.title, self.table = title, table
        self.bench = Bench(folder)
        self.texts: list[str] = table.column("text").to_pylist()
        self.tokens = self.bench.tokenizer.tokenize(self.texts)
        self.flop = self.bench.shape.flop_per_token(self.tokens.lengths)
        self.rate = 0.0  # of the encoder alone, once known
        self._options, self._encoder, self._peak = options, None, None

    @property
    def encoder(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self.bench.encoder("auto")
        return self._encoder

    @property
    def precision(self) -> str:
        return self.encoder.precision.value

    @property
    def peak(self) -> Peak:
        if self._peak is None:
            self._peak = Peak(self.bench.shape, self.precision, self.encoder.device, square=not self._options.smoke)
        return self._peak

    def work(self, seconds: float, flops: float) -> list[TokenizedTexts]:
        """The corpus repeated to about so many seconds at that rate of FLOP, or a part of it; in windows, as in a run."""
        wanted = int(seconds * flops / self.flop)
        total = len(self.tokens.input_ids)
        if wanted >= total:
            return _windows(repeated(self.tokens, wanted))
        rows = np.random.default_rng(1).permutation(len(self.tokens.lengths))
        return _windows(chosen(self.tokens, np.sort(rows[: max(len(rows) * wanted // total, min(32, len(rows)))])))


def _windows(tokens: TokenizedTexts) -> list[TokenizedTexts]:
    rows = np.arange(len(tokens.lengths))
    return [chosen(tokens, rows[start : start + WINDOW_ROWS]) for start in range(0, len(rows), WINDOW_ROWS)]


def count(work: list[TokenizedTexts]) -> int:
    """Its tokens."""
    return sum(len(window.input_ids) for window in work)


def rate_of(encoder: Encoder, work: list[TokenizedTexts]) -> float:
    """Tokens a second of one call a window; each ends when its vectors are here."""
    began = time.perf_counter()
    for window in work:
        encoder.encode(window)
    return count(work) / (time.perf_counter() - began)


def checks(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Raises nothing where a check fails: it says so under "failed_checks"."""
    encoder = subject.encoder
    some = chosen(subject.tokens, over_all_lengths(subject.tokens, options.check_texts))
    exact = running(encoder, Padded(subject.bench.transformer(encoder, "float32")))
    exact.batch_tokens = min(encoder.batch_tokens, 16384)  # a mask and four times the bytes: less fits
    found = cosines(encoder.encode(some).vectors, exact.encode(some).vectors)
    cuda = encoder.device.type == "cuda"
    wrong = []
    if cuda and encoder.way != "packed":
        wrong.append(f"way is {encoder.way}, not packed")
    if not np.isfinite(found).all() or (subject.precision == "float16" and found.min() < LEAST_COSINE):
        wrong.append(f"least cosine {found.min():.6f}, of {subject.precision}")
    return {
        "device": str(encoder.device), "precision": subject.precision, "way": encoder.way,
        "batch_tokens": encoder.batch_tokens, "texts": len(some.lengths), "lengths": len(np.unique(some.lengths)),
        "shortest": int(some.lengths.min()), "longest": int(some.lengths.max()),
        "cosine_min": round(float(found.min()), 7), "cosine_mean": round(float(found.mean()), 7), "failed_checks": wrong,
    }  # fmt: skip


def encoder(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Budgets in rounds, the peak measured before and after each round."""
    ours = subject.encoder
    settled, peak = ours.batch_tokens, subject.peak
    work = subject.work(options.seconds / 8, peak.measure() / 2)
    rates: dict[int, list[float]] = {}
    notes: list[str] = []
    budgets = list(dict.fromkeys([*options.budgets, settled]))
    for number in range(options.rounds + 1):  # the first warms up
        for budget in list(budgets):
            ours.batch_tokens, ours._lowered = budget, False
            rate = rate_of(ours, work)
            if ours.batch_tokens != budget:
                notes.append(f"{budget} tokens do not fit; lowered to {ours.batch_tokens}")
                budgets.remove(budget)
            elif number:
                rates.setdefault(budget, []).append(rate)
        peak.measure()
    best = max(rates, key=lambda budget: float(np.median(rates[budget])))
    subject.rate = float(np.median(rates[best]))
    ours.batch_tokens = settled
    top = float(np.median(peak.seen))
    return {
        "precision": subject.precision, "way": ours.way, "tokens": count(work),
        "flop_per_token": round(subject.flop),
        "tokens_per_second": {str(budget): spread(found) for budget, found in rates.items()},
        "settled_batch_tokens": settled, "best_batch_tokens": best, "best_tokens_per_second": round(subject.rate),
        "peak_tflops": spread((value / 1e12 for value in peak.seen), 2), "peak_shape": peak.shape_of_best,
        "mfu": round(subject.rate * subject.flop / top, 4), "tflops": round(subject.rate * subject.flop / 1e12, 3),
        "notes": notes,
    }  # fmt: skip


def compiled(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Eager and compiled in turns. On a CPU the compiler's back end is left out: only the tracing is tried."""
    ours, cuda = subject.encoder, subject.encoder.device.type == "cuda"
    eager = running(ours, Packed(subject.bench.transformer(ours, subject.precision)))
    torch._dynamo.reset()
    forward = CompiledPacked(subject.bench.transformer(ours, subject.precision), "inductor" if cuda else "eager")
    fast = running(ours, forward)
    work = subject.work(options.seconds / 8, subject.peak.measure() / 2)
    began = time.perf_counter()
    vectors = fast.encode(subject.tokens if cuda else chosen(subject.tokens, np.arange(4))).vectors
    warm = time.perf_counter() - began
    if not cuda:
        return {"note": "no CUDA: traced, not compiled and not timed", "warm_up_seconds": round(warm, 1)}
    least = float(cosines(vectors, eager.encode(subject.tokens).vectors).min())
    turns = [(rate_of(eager, work), rate_of(fast, work)) for _ in range(options.rounds + 1)][1:]
    counters = torch._dynamo.utils.counters
    return {
        "batch_tokens": ours.batch_tokens, "warm_up_seconds": round(warm, 1), "cosine_min_to_eager": round(least, 6),
        "eager": spread(one for one, _ in turns), "compiled": spread(two for _, two in turns),
        "gain": spread((two / one for one, two in turns), 3), "graph_breaks": dict(counters["graph_break"]),
    }  # fmt: skip


def peers(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Batch sizes are tuned on a part first; texts are sorted by length for everybody."""
    from sentence_transformers import SentenceTransformer

    ours, bench = subject.encoder, subject.bench
    half = "float16" if ours.device.type == "cuda" else "bfloat16"
    work = subject.work(options.seconds / 8, subject.peak.measure() / 4)
    texts = sorted(subject.texts[: sum(len(window.lengths) for window in work)], key=len, reverse=True)
    total = int(bench.tokenizer.tokenize(texts).num_tokens.sum())
    part = texts[::4]
    runs: dict[str, Callable[[], Any]] = {"reembed": lambda: ours.encode(bench.tokenizer.tokenize(texts)).vectors}
    tuned: dict[str, Any] = {}
    for dtype in (half, "float32"):
        kwargs = {"model_kwargs": {"dtype": getattr(torch, dtype)}}
        model = SentenceTransformer(str(bench.folder), device=str(ours.device), **kwargs)
        seconds: dict[int, float] = {}
        _encode(model, part, options.batch_sizes[0])()  # warm
        for size in options.batch_sizes:
            seconds[size] = _seconds(_encode(model, part, size))
        best = min(seconds, key=lambda size: seconds[size])
        tuned[dtype] = {"batch_size": best, "seconds": {str(size): round(value, 3) for size, value in seconds.items()}}
        runs[f"sentence-transformers {dtype}"] = _encode(model, texts, best)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    vectors = {name: np.asarray(run(), np.float32) for name, run in runs.items()}  # untimed: everybody is warm
    for number in range(options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rates[name].append(total / _seconds(runs[name]))
    reference = vectors["sentence-transformers float32"]
    return {
        "texts": len(texts), "tokens": total, "tuned": tuned,
        "tokens_per_second": {name: spread(found) for name, found in rates.items()},
        "times_as_fast": {
            name: spread((a / b for a, b in zip(rates["reembed"], rates[name], strict=True)), 2) for name in names[1:]
        },
        "cosine_min": {name: round(float(np.nanmin(cosines(found, reference))), 6) for name, found in vectors.items()},
    }  # fmt: skip


def _encode(model: Any, texts: list[str], size: int) -> Callable[[], Any]:
    return lambda: model.encode(texts, batch_size=size, show_progress_bar=False, convert_to_numpy=True)


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

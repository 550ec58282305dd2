"""What the host adds: whole calls of the encoder, and the tokenizer by threads.

whole        token ids in, vectors out, one call a window: alone by token budget, and beside a thread of pure Python, which
             is what the launching thread has beside it in a run; with the interpreter's usual turns, and with short ones
tokenizer    texts in, ids out, in a process that may use 1, 2, 4, … cores; and what of it holds the calling thread
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gemm import Peak
from benchmarks.gpu.device import DEVICE, cores
from benchmarks.gpu.subject import Subject, count, expected_rate, rate_of
from benchmarks.machine import ROOT

SECONDS, SMOKE_SECONDS = 1.5, 0.05  # of work for each figure, about
USUAL, SHORT = 5e-3, 5e-4  # seconds that a thread may keep the interpreter while others wait
THREADS = (1, 2, 4, 8, 16, 32, 64, 128)
ROWS, SMOKE_ROWS = 30_000, 50
LIMIT_SECONDS = 120.0


def whole(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Section, of a model. Sets the subject's rate, and leaves the encoder as it was."""
    encoder = subject.loaded
    settled = encoder.batch_tokens
    windows = subject.windows(SMOKE_SECONDS if subject.smoke else SECONDS, expected_rate(subject.flop))
    rate_of(encoder, windows)
    alone: dict[int, float] = {}
    for budget in dict.fromkeys((*subject.budgets, settled)):
        encoder.batch_tokens = budget
        alone[budget] = rate_of(encoder, windows)
        fits = encoder.batch_tokens == budget  # else the encoder lowered it
        yield f"alone, {budget} tokens a batch", _rate(alone[budget]) | ({} if fits else {"note": "does not fit"})
    encoder.batch_tokens = settled
    subject.rate = alone[settled]
    peak = Peak(subject.bench.shape, encoder.precision.value, DEVICE, square=not subject.smoke)
    products = peak.measure()
    best = max(alone.values())
    yield "settled", {
        "batch_tokens": settled, "tokens": count(windows), **_rate(alone[settled]), "best_Mtok_s": round(best / 1e6, 4),
        "TFLOP_s": round(best * subject.flop / 1e12, 3), "products_TFLOP_s": round(products / 1e12, 3),
        "share_of_products": round(best * subject.flop / products, 4),
    }  # fmt: skip
    usual = sys.getswitchinterval()
    for name, interval in (("usual", USUAL), ("short", SHORT)):
        sys.setswitchinterval(interval)
        try:
            with _busy_interpreter():
                yield f"beside pure Python, {name} turns", _rate(rate_of(encoder, windows))
        finally:
            sys.setswitchinterval(usual)


def _rate(rate: float) -> dict[str, float]:
    return {"Mtok_s": round(rate / 1e6, 4)}


@contextmanager
def _busy_interpreter() -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tokenizer(subject: Subject, corpus: Path) -> Iterator[tuple[str, Any]]:
    """Section, of the given model alone: the others share its tokenizer."""
    counts = [1] if subject.smoke else [count for count in THREADS if count <= cores()]
    for threads in counts:
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-m", "benchmarks.gpu.tokenizing", str(subject.bench.folder), str(corpus)]
        command += ["--threads", str(threads), "--rows", str(SMOKE_ROWS if subject.smoke else ROWS)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the tokenizer on {threads} cores: {done.stderr.strip()[-400:]}")
        yield f"{threads} cores", json.loads(done.stdout)

"""One model on the device, with the corpus in its tokens; its encoder is the product's own, proved on the golden texts."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.device import CUDA, DEVICE
from benchmarks.models import Bench, chosen, repeated
from workers.engine.batches.plan import Layout, plan_batches
from workers.engine.encoder import Encoder
from workers.engine.kernels.packing import PackedBatch, pack
from workers.records.documents import WINDOW_ROWS
from workers.records.tokens import TokenizedTexts

BUDGETS = (32768, 65536, 131072, 262144)
SMOKE_BUDGETS = (64, 256)
IN_FLIGHT = 2  # windows on the device


class Subject:
    """`title`: of the results. The encoder is loaded by `load`."""

    def __init__(self, title: str, folder: Path, table: pa.Table, *, smoke: bool) -> None:
        self.title, self.table, self.smoke = title, table, smoke
        self.bench = Bench(folder)
        self.texts: list[str] = table.column("text").to_pylist()
        self.tokens = self.bench.tokenizer.tokenize(self.texts)
        self.flop = self.bench.shape.flop_per_token(self.tokens.lengths)
        self.budgets = SMOKE_BUDGETS if smoke else BUDGETS
        self.rate = 0.0  # tokens/s of whole calls, once known
        self.encoder: Encoder | None = None

    def load(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.encoder = self.bench.encoder("auto")
        return {
            "tokens": len(self.tokens.input_ids), "documents": len(self.texts), "longest": int(self.tokens.lengths.max()),
            "MFLOP_a_token": round(self.flop / 1e6, 1), "load_seconds": round(time.perf_counter() - began, 1),
            "precision": self.encoder.precision.value, "way": self.encoder.way, "batch_tokens": self.encoder.batch_tokens,
        }  # fmt: skip

    @property
    def loaded(self) -> Encoder:
        """Raises: RuntimeError: `load` failed, or `release` was called."""
        if self.encoder is None:
            raise RuntimeError(f"{self.title}: there is no encoder")
        return self.encoder

    def release(self) -> None:
        """Give the device's memory back: it is another process' now."""
        self.encoder = None

    def batch(self, budget: int, layout: Layout) -> PackedBatch:
        """The middle batch of a window with the corpus' mix of lengths: neither the longest texts nor the shortest."""
        rows = np.arange(min(WINDOW_ROWS, len(self.tokens.lengths)))
        rows = np.tile(rows, -(-budget * 3 // int(self.tokens.lengths[rows].sum())))
        plan = plan_batches(self.tokens.lengths[rows], budget, layout)
        return pack(self.tokens, rows[plan[len(plan) // 2]], DEVICE)

    def windows(self, seconds: float, rate: float) -> list[TokenizedTexts]:
        """The corpus as calls of the encoder get it: as often, or as much of it, as takes so long at that rate."""
        wanted, tokens = int(seconds * rate), self.tokens
        if wanted > len(tokens.input_ids):
            tokens = repeated(tokens, wanted)
        else:
            rows = np.random.default_rng(1).permutation(len(tokens.lengths))
            share = max(len(rows) * wanted // max(len(tokens.input_ids), 1), min(32, len(rows)))
            tokens = chosen(tokens, np.sort(rows[:share]))
        rows = np.arange(len(tokens.lengths))
        return [chosen(tokens, rows[start : start + WINDOW_ROWS]) for start in range(0, len(rows), WINDOW_ROWS)]


def expected_rate(flop: float) -> float:
    """Tokens/s before anything is known: half of what such devices multiply at best."""
    return (4e14 if CUDA else 2e10) / flop


def count(windows: list[TokenizedTexts]) -> int:
    """Their tokens."""
    return sum(len(window.input_ids) for window in windows)


def rate_of(encoder: Encoder, windows: list[TokenizedTexts]) -> float:
    """Tokens/s of one call a window, as one thread makes them in a run: the next is submitted before one is awaited."""
    submit = getattr(encoder, "submit", None)
    pending: deque[Any] = deque()
    began = time.perf_counter()
    for window in windows:
        if submit is None:
            encoder.encode(window)
            continue
        pending.append(submit(window))
        if len(pending) == IN_FLIGHT:
            pending.popleft().result()
    for last in pending:
        last.result()
    return count(windows) / (time.perf_counter() - began)

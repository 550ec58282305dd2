"""The time trial at start: of the ways that passed the self-check, the fastest is used, and remembered on this node.

    fastest      times each way on the golden texts, and says which one is fastest
    recall       what an earlier trial of the same model on the same kind of device chose, or None
    remember     keeps a choice for the next start

Whether bfloat16 is faster than float32 on a processor, or one way faster than another on a GPU, is measured, not read from a
list: oneDNN emulates what a processor lacks. One candidate alone needs no trial. The chosen way holds for the run
(jobs/embed/calibration.py), so that every attempt gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workers import __version__
from workers.config import Precision
from workers.engine.batches.plan import Layout, plan_batches
from workers.engine.kernels.packing import PackedBatch, pack
from workers.engine.ways.interface import Forward
from workers.errors import UsageError
from workers.host.processor import processor
from workers.model.fetch import cache_folder
from workers.records.tokens import TokenizedTexts

TRIAL_SECONDS = 1.0  # of each way, at most, after its first pass
TRIAL_TOKENS = {"cpu": 128, "cuda": 65536}  # of a timed batch: on a CPU ways differ by as much at any size
ROUNDS = 5
CLEAR = 1.25  # a way so many times as fast as every other after one timed pass needs no further rounds
SAME_RATE = 0.97  # ways within this share of the fastest are equally fast: the first of them is taken
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # limit what torch uses of a processor
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A precision, and the name of a way to run the model in it."""

    precision: Precision
    way: str

    def __str__(self) -> str:
        return self.way if self.precision.value in self.way else f"{self.way} {self.precision.value}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way that gave the golden vectors."""

    precision: Precision
    forward: Forward

    @property
    def choice(self) -> Choice:
        return Choice(self.precision, self.forward.name)


@torch.inference_mode()
def fastest(candidates: Sequence[Candidate], golden: TokenizedTexts, device: torch.device) -> Candidate:
    """The fastest of these; the first of those that are equally fast. A way that fails beside the others is left out.

    Raises:
        Exception: what the last way raised, if every way fails; a CUDA error at once, as no way works after it.
    """
    if len(candidates) == 1:
        return candidates[0]
    best: dict[int, float] = {}  # candidate -> tokens a second
    failure: Exception | None = None
    for index, candidate in enumerate(candidates):
        try:
            batch = _batch(golden, device, candidate.forward.layout)
            _timed(candidate.forward, batch, device)  # untimed: kernels are made in the first pass
            best[index] = batch.tokens / _timed(candidate.forward, batch, device)
        except Exception as error:  # memory, an operator that only this batch needs, a kernel that cannot be built
            if device.type == "cuda" and "CUDA error" in str(error):
                raise
            _log.info("trial: %s fails: %s", candidate.choice, error)
            failure = error
    if not best:
        raise failure or RuntimeError("no way to try")
    began = time.perf_counter()
    for _ in range(1, ROUNDS):
        if _clear(best) or time.perf_counter() - began > TRIAL_SECONDS * len(best):
            break
        for index in best:
            batch = _batch(golden, device, candidates[index].forward.layout)
            best[index] = max(best[index], batch.tokens / _timed(candidates[index].forward, batch, device))
    most = max(best.values())
    chosen = candidates[next(index for index, rate in best.items() if rate >= SAME_RATE * most)]
    shown = ", ".join(f"{candidates[index].choice} {rate:,.0f}" for index, rate in best.items())
    _log.info("%s: trial, in tokens/s: %s; using %s", device, shown, chosen.choice)
    return chosen


def recall(weights_digest: str, wanted: Precision, device: torch.device) -> Choice | None:
    """The choice of an earlier trial; None if there was none, or what is kept of it cannot be read."""
    try:
        kept = json.loads(_place(weights_digest, wanted, device).read_text())
        return Choice(Precision(kept["precision"]), str(kept["way"]))
    except (OSError, UsageError, ValueError, KeyError, TypeError):
        return None


def remember(choice: Choice, weights_digest: str, wanted: Precision, device: torch.device) -> None:
    """Keep a choice, atomically. If the cache cannot be written, the next start tries again."""
    try:
        place = _place(weights_digest, wanted, device)
        part = place.with_name(f"{place.name}.{os.getpid()}")
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"precision": choice.precision.value, "way": choice.way}))
        part.replace(place)
    except (OSError, UsageError) as error:
        _log.info("the trial's result is not kept: %s", error)


def _place(weights_digest: str, wanted: Precision, device: torch.device) -> Path:
    facts = [weights_digest, wanted.value, __version__, torch.__version__, kind(device)]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "trials" / f"{key}.json"


def kind(device: torch.device) -> dict[str, Any]:
    """What decides which way is faster on a device, beside the libraries."""
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device), "capability": torch.cuda.get_device_capability(device)}
    limits = {name: os.environ[name] for name in _LIMITS if name in os.environ}
    return {"cpu": processor(), "limits": limits, "threads": torch.get_num_threads()}


def _clear(rates: dict[int, float]) -> bool:
    ordered = sorted(rates.values(), reverse=True)
    return len(ordered) == 1 or ordered[0] >= CLEAR * ordered[1]


def _batch(golden: TokenizedTexts, device: torch.device, layout: Layout) -> PackedBatch:
    """The golden sequences, longest first, repeated or cut to TRIAL_TOKENS; their lengths are as mixed as they are."""
    budget = TRIAL_TOKENS[device.type]
    rows = np.flatnonzero(golden.lengths)
    total = int(golden.lengths[rows].sum())
    rows = np.tile(rows, -(-budget // total)) if total < budget else rows[:: max(total // budget, 1)]
    together = layout if layout in (Layout.EQUAL, Layout.SINGLE) else Layout.PACKED
    return pack(golden, rows[plan_batches(golden.lengths[rows], max(budget, total), together)[0]], device)


def _timed(forward: Forward, batch: PackedBatch, device: torch.device) -> float:
    began = time.perf_counter()
    forward(batch, layers=0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - began, 1e-9)

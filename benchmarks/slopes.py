"""Least-squares slopes of samples over time with 95% confidence intervals, to decide whether a figure grows.

    Life            one process: its samples of one figure, and their times
    pooled_slope    of several lives: each has its own level, and all share one slope (regression with fixed effects)
    slope           of one series

Samples a few seconds apart are strongly correlated and would make the interval far too narrow, so they are averaged over
blocks first. The warm-up of a process, in which it fills buffers and caches, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(slots=True)
class Life:
    """Seconds since the process was first seen, and the samples."""

    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, seconds: float, value: float) -> None:
        self.seconds.append(seconds)
        self.values.append(value)

    def blocks(self, length: float, warm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of time and value over blocks of `length` seconds, of what comes after the first `warm` seconds."""
        times, values = np.asarray(self.seconds), np.asarray(self.values)
        keep = times >= warm
        if not keep.any():
            return np.empty(0), np.empty(0)
        times, values = times[keep], values[keep]
        _, inverse, counts = np.unique((times // length).astype(np.int64), return_inverse=True, return_counts=True)
        return np.bincount(inverse, times) / counts, np.bincount(inverse, values) / counts


@dataclass(frozen=True, slots=True)
class Slope:
    """Units an hour. `low` to `high` is the interval; NaN where there are too few blocks to tell."""

    an_hour: float
    low: float
    high: float
    blocks: int
    lives: int
    level: float  # mean over all blocks

    @property
    def grows(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0

    def to_json(self) -> dict[str, Any]:
        digits = {name: _significant(getattr(self, name)) for name in ("an_hour", "low", "high", "level")}
        return digits | {"blocks": self.blocks, "lives": self.lives, "grows": self.grows}


def pooled_slope(lives: Iterable[Life], block: float, warm: float) -> Slope:
    """One slope within all lives that have two blocks or more after they are warm."""
    times, values, levels = [], [], []
    for life in lives:
        at, value = life.blocks(block, warm)
        if len(at) >= 2:
            times.append(at - at.mean())
            values.append(value - value.mean())
            levels.append(value)
    if not times:
        return Slope(math.nan, math.nan, math.nan, 0, 0, math.nan)
    x, y = np.concatenate(times), np.concatenate(values)
    # each life's own mean takes a degree of freedom, the slope one more
    return _fit(x, y, len(x) - len(times) - 1, len(times), float(np.concatenate(levels).mean()))


def slope(seconds: Sequence[float], values: Sequence[float], block: float) -> Slope:
    """Of one series."""
    return pooled_slope([Life(list(seconds), list(values))], block, -math.inf)


def _fit(x: NDArray[np.float64], y: NDArray[np.float64], freedom: int, lives: int, level: float) -> Slope:
    spread = float((x**2).sum())
    rate = float((x * y).sum()) / spread
    if freedom < 1:
        return Slope(rate * 3600, math.nan, math.nan, len(x), lives, level)
    error = math.sqrt(float(((y - rate * x) ** 2).sum()) / freedom / spread)
    margin = float(student.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Slope(rate * 3600, (rate - margin) * 3600, (rate + margin) * 3600, len(x), lives, level)


def _significant(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None

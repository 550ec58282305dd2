"""Runs sections within a time budget and stores each figure as it comes.

A section is a generator of (name, figure) pairs. The file is rewritten after every pair, so a machine that is taken away, a
section that fails and a budget that is spent cost only what had not been measured. A section whose estimated seconds no
longer fit is skipped by name. Knows nothing of what is measured.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import Meter
from benchmarks.models import say, store

FAILED_CHECKS = "failed_checks"
Pairs = Iterable[tuple[str, Any]]


class Session:
    """`seconds`: the budget, counted from here. `result` holds the facts already, and what is measured afterwards."""

    def __init__(self, result: dict[str, Any], out: Path, seconds: float) -> None:
        self.result, self._out, self._seconds = result, out, seconds
        self._began = time.monotonic()
        self._meter = Meter(out / "power.csv")

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._seconds - self.spent

    @property
    def spent(self) -> float:
        return time.monotonic() - self._began

    def run(self, section: str, model: str, estimate: float, pairs: Pairs) -> bool:
        """Run a section to its end, its failure, or the end of the budget; True: it ended by itself.

        Args:
            model: "" for a section that is about none.
            estimate: the seconds it needs, about: it does not begin with fewer.
        """
        place: dict[str, Any] = {}
        self.result.setdefault(section, {})[model or "all"] = place
        began, title = self.spent, f"{section}{f' of {model}' if model else ''}"
        if estimate > self.left:
            place["skipped"] = f"needs some {estimate:.0f} s, {max(self.left, 0):.0f} are left"
            say(f"{began:6.1f} s  {title}: {place['skipped']}")
            self.store()
            return False
        ended = self._collect(title, place, pairs)
        place["section_seconds"] = round(self.spent - began, 1)
        if (power := self._meter.during(began - self.spent)) is not None:
            place["device_during"] = power
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.store()
        return ended

    def _collect(self, title: str, place: dict[str, Any], pairs: Pairs) -> bool:
        say(f"{self.spent:6.1f} s  {title}")
        try:
            for name, figure in pairs:
                place[name] = figure
                say(f"{self.spent:6.1f} s    {name}: {figure}")
                self.store()
                if self.left < 0:
                    place["ended_early"] = f"the budget of {self._seconds:.0f} s is spent"
                    return False
        except Exception as error:  # noqa: BLE001 - recorded; the machine is too dear to end here
            place["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:800]}"
            place["trace"] = traceback.format_exc().strip().splitlines()[-12:]
            say(f"{title} failed: {place['failed']}")
            return False
        return True

    def store(self) -> None:
        self.result["seconds"] = round(self.spent, 1)
        store(self.result, self._out / "gpu.json")

    def close(self) -> None:
        self._meter.close()
        self.store()

    @property
    def failures(self) -> list[str]:
        """Failed sections, failed parts of sections, and failed checks."""
        found = []
        for section, models in self.result.items():
            for model, place in models.items() if isinstance(models, dict) else ():
                if not isinstance(place, dict):
                    continue
                parts = {"": place} | {name: part for name, part in place.items() if isinstance(part, dict)}
                for name, part in parts.items():
                    if reason := part.get("failed") or "; ".join(part.get(FAILED_CHECKS, ())):
                        found.append(f"{section}: {model}{f': {name}' if name else ''}: {reason}")
        return found

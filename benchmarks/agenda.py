"""Virtual time: what is to happen when, and a clock that jumps from one thing to the next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Agenda:
    """`now` in seconds. Things due at the same moment happen in the order in which they were put down."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ties = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._ties), happen))

    def step(self, until: float) -> bool:
        """Let the next thing happen, if it is due by then, and the clock be there; else the clock is at `until`."""
        if not self._due or self._due[0][0] > until:
            self.now = until
            return False
        self.now, _, happen = heapq.heappop(self._due)
        happen()
        return True

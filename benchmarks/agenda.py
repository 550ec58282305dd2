"""An agenda in virtual time: scheduled events, and a clock that jumps to the next one."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Agenda:
    """`now` in seconds. Events due at the same time happen in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ties = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._ties), happen))

    def step(self, until: float) -> bool:
        """Run the next event and set the clock to its time, if it is due by `until`; else set the clock to `until`."""
        if not self._due or self._due[0][0] > until:
            self.now = until
            return False
        self.now, _, happen = heapq.heappop(self._due)
        happen()
        return True

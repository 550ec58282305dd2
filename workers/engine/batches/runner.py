"""Runs the batches of a call on one device, one after the other or, on a CPU, concurrently.

A batch that fails is halved. A sequence that fails alone is left out, with the reason. When the device runs out of memory,
the limit `batch_tokens` is lowered permanently. Knows nothing of models.

Shapes: N sequences of the call, B sequences of a batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.batches.attempts import Failed, attempt, halves
from workers.engine.batches.plan import Layout, positions

# Batches computed concurrently on a CPU, each by its own share of the threads. A thread that the system has suspended then
# delays one batch only, and the Python code of one batch overlaps with the matrix products of others.
MOST_AT_ONCE = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What is computed for the sequences of one call."""

    embed: Callable[[NDArray[np.int64]], Tensor]  # rows of a batch [B] -> its vectors
    lengths_N: NDArray[np.int64]  # tokens of each sequence
    layout: Layout
    device: torch.device
    blame: Callable[[Failed], str]  # why a sequence that failed alone has no vector; raises where the replica is at fault
    strict: bool = False  # see attempt


class BatchRunner:
    """Runs batches, and keeps the limit of a batch for one device.

    Args:
        threads: torch's threads; shared by the batches that are computed at once on a CPU.
    """

    def __init__(self, threads: int, device: torch.device) -> None:
        self.batch_tokens = 1
        self._lowered = False
        self._workers: ThreadPoolExecutor | None = None
        at_once = min(threads, MOST_AT_ONCE) if device.type == "cpu" else 1
        if at_once > 1:
            self._workers = ThreadPoolExecutor(
                at_once, "encode", initializer=torch.set_num_threads, initargs=(max(threads // at_once, 1),)
            )

    def run(
        self, call: Call, batches: list[NDArray[np.int64]], refused: dict[int, str]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Each batch, or what it was halved to, with its vectors.

        `refused`: a sequence that fails alone is added with the reason.

        Raises:
            ReplicaError: the device failed.
        """
        todo = batches[::-1]
        if self._workers is not None:
            todo = []
            attempts = self._workers.map(functools.partial(_attempt_in_thread, call), batches)
            for batch, found in zip(batches, attempts, strict=True):
                if isinstance(found, Tensor):
                    yield batch, found
                else:
                    todo.append(batch)
        while todo:
            batch = todo.pop()
            size = positions(call.lengths_N[batch], call.layout)
            if size > self.batch_tokens and len(batch) > 1:  # planned before the limit was lowered
                todo += halves(batch)
                continue
            found = _attempt(call, batch)
            if isinstance(found, Tensor):
                yield batch, found
                continue
            if found.memory:
                self._lower(call.device, size, halve=len(batch) > 1)
            if len(batch) > 1:
                todo += halves(batch)
            else:
                refused[int(batch[0])] = call.blame(found)

    def _lower(self, device: torch.device, size: int, *, halve: bool) -> None:
        """The device has no memory for a batch of `size` positions."""
        if not self._lowered:
            _log.warning("%s: out of memory on %d positions; lowering the token budget", device, size)
            self._lowered = True
        if halve:
            self.batch_tokens = max(size // 2, 1)


def _attempt(call: Call, batch: NDArray[np.int64]) -> Tensor | Failed:
    return attempt(lambda: call.embed(batch), call.device, strict=call.strict)


@torch.inference_mode()  # which is set per thread
def _attempt_in_thread(call: Call, batch: NDArray[np.int64]) -> Tensor | Failed:
    return _attempt(call, batch)

"""One attempt at a batch: vectors, or whose fault it is that there are none.

    attempt       vectors of a batch | Failed: the batch may be halved, until one sequence is left
    halves        the batches to compute instead
    blame         why a sequence that failed alone has no vector

A device that fails is the replica's fault and raised as ReplicaError. Everything else may be one sequence's fault, which
only halving shows. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.errors import ReembedError, ReplicaError


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch without vectors."""

    reason: str
    memory: bool  # the device has too little


def attempt(embed: Callable[[], Tensor], device: torch.device, *, strict: bool) -> Tensor | Failed:
    """What `embed` returns, or why it failed.

    Args:
        strict: raise what `embed` raises, but for too little memory on CUDA: nothing has shown yet that it can succeed.

    Raises:
        ReplicaError: the device failed.
    """
    try:
        return embed()
    except torch.OutOfMemoryError:
        failed = Failed("the device has too little memory for it", memory=True)
    except ReembedError:
        raise
    except Exception as error:  # a family's code may raise anything
        if strict:
            raise
        if device.type == "cuda" and isinstance(error, RuntimeError):
            raise ReplicaError(f"{device}: {first_line(error)}") from error
        failed = Failed(f"{type(error).__name__}: {first_line(error)}", memory=False)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory of the failed pass is released only after the exception
    return failed


def halves(batch: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Two batches instead of one, the last one first."""
    middle = (len(batch) + 1) // 2
    return [batch[middle:], batch[:middle]]


def blame(failed: Failed, embed_golden: Callable[[], Tensor], device: torch.device) -> str:
    """Why a sequence that failed alone has no vector.

    Raises:
        ReplicaError: a golden text, which was embedded before, fails as well: the replica is at fault.
    """
    if failed.memory:
        return failed.reason
    again = attempt(embed_golden, device, strict=False)
    if not isinstance(again, Tensor):
        raise ReplicaError(f"{device}: {again.reason}; texts that it embedded before fail as well")
    return f"the model refuses it: {failed.reason}"


def first_line(error: BaseException) -> str:
    """The message's first line, or the error's class when it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

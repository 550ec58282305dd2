"""Vectors on their way from the device to the host, so that the device computes the next call meanwhile.

    Pending      a call whose batches are submitted; its result is waited for
    Arrivals     the vectors of one call, put in their places when they have arrived
    Arrived      the landing of a CPU: vectors are on the host as soon as they are computed
    Ring         the landing of a CUDA device: copies into one pinned buffer that is used in a ring
    CudaLane     what Ring needs of CUDA: pinned memory, a stream for copies, events

A copy from CUDA into ordinary memory makes the host wait for all work submitted before it, and the device then idles until
more is submitted. A copy into pinned memory on a stream of its own lets the host go on; it waits for the copy's event once
it needs the vectors.

Knows nothing of models. Used by one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.records.tokens import EncodedTexts

LEAST_BYTES = 1 << 24  # of pinned memory: one window of 8,000 documents in 384 components takes 12.6 MB
# At most so much is pinned, except for a single larger copy. Two windows in 1,024 components take 67 MB. The vectors of all
# tokens may take any amount, and wait for earlier copies.
MOST_BYTES = 1 << 28
_FLOAT_BYTES = 4


class Copy(Protocol):
    """A copy to the host that is under way."""

    def done(self) -> bool:
        """Whether `wait` would not have to wait. Does not raise: if the device failed, `wait` says so."""
        ...

    def wait(self) -> NDArray[np.float32]:
        """The vectors [B, D], in the ring's memory. Raises: RuntimeError: the device failed, in the copy or before it."""
        ...


class Lane(Protocol):
    """What a ring needs of its device."""

    def pinned(self, floats: int) -> Tensor:
        """Host memory [floats] float32 that the device copies into without the host's help."""
        ...

    def copy(self, source: Tensor, buffer: Tensor, start: int) -> Copy:
        """Begin a copy of `source` [B, D] to `buffer[start:]`, behind the work submitted so far."""
        ...


class Landing(Protocol):
    """Where vectors arrive. Copies arrive in the order in which they were sent."""

    def send(self, vectors: Tensor, out: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
        """Have `out[rows]` filled with `vectors` [B, D]. Returns the number of the copy."""
        ...

    def landed(self, number: int) -> bool:
        """Whether the device has made the copies up to this number."""
        ...

    def land(self, number: int) -> None:
        """Wait until the rows of all copies up to this number are filled. Raises: RuntimeError: the device failed."""
        ...


class Arrived:
    """The landing of a CPU."""

    def send(self, vectors: Tensor, out: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
        out[rows] = vectors.numpy()
        return 0

    def landed(self, number: int) -> bool:  # noqa: ARG002 - as Landing
        return True

    def land(self, number: int) -> None:
        """There is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A copy under way into `buffer[start:stop]`, and where its rows belong."""

    copy: Copy
    buffer: Tensor
    start: int
    stop: int
    out: NDArray[np.float32]
    rows: NDArray[np.int64]


class Ring:
    """The landing of a CUDA device.

    Copies take consecutive pieces of one pinned buffer. Where none is free, the buffer is replaced by one of twice its size,
    up to `most_bytes`; from then on the oldest copy is waited for, and its rows are put in their places.
    """

    def __init__(self, lane: Lane, *, least_bytes: int = LEAST_BYTES, most_bytes: int = MOST_BYTES) -> None:
        self._lane, self._most = lane, most_bytes // _FLOAT_BYTES
        self._least = least_bytes // _FLOAT_BYTES
        self._buffer: Tensor | None = None
        self._size = 0  # of the buffer, in floats
        self._under_way: deque[_Piece] = deque()
        self._sent = self._landed = 0
        self._failure: RuntimeError | None = None  # a device that has failed once gives nothing any more

    def send(self, vectors: Tensor, out: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
        floats = vectors.numel()
        buffer, start = self._piece(floats)
        copy = self._lane.copy(vectors, buffer, start)
        self._under_way.append(_Piece(copy, buffer, start, start + floats, out, rows))
        self._sent += 1
        return self._sent

    def landed(self, number: int) -> bool:
        return number <= self._landed or self._failure is not None or self._under_way[number - self._landed - 1].copy.done()

    def land(self, number: int) -> None:
        while self._landed < number:
            if self._failure is not None:  # the rows of a copy that failed are never taken for rows without a vector
                raise self._failure
            self._land_oldest()

    def _land_oldest(self) -> None:
        piece = self._under_way.popleft()
        try:
            piece.out[piece.rows] = piece.copy.wait()
        except RuntimeError as error:
            self._failure = error
            raise
        self._landed += 1

    def _piece(self, floats: int) -> tuple[Tensor, int]:
        """A free piece of this size: the buffer, and the piece's first float."""
        while True:
            if self._buffer is not None and (start := self._free(floats)) is not None:
                return self._buffer, start
            if self._size < max(self._most, floats):
                # copies under way keep the buffer that they go to
                larger = max(self._least, 2 * self._size, 1 << (floats - 1).bit_length())
                self._size = max(min(larger, self._most), floats)
                self._buffer = self._lane.pinned(self._size)
            else:
                self._land_oldest()

    def _free(self, floats: int) -> int | None:
        """Where so many floats fit behind the newest copy; None: nowhere."""
        pieces = [piece for piece in self._under_way if piece.buffer is self._buffer]
        if not pieces:
            return 0 if floats <= self._size else None
        oldest, newest = pieces[0], pieces[-1]
        if newest.start < oldest.start:  # the newest begins again at the front
            return newest.stop if newest.stop + floats <= oldest.start else None
        if newest.stop + floats <= self._size:
            return newest.stop
        return 0 if floats <= oldest.start else None


class CudaLane:
    """A stream for copies beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def pinned(self, floats: int) -> Tensor:
        return torch.empty(floats, dtype=torch.float32, pin_memory=True)

    def copy(self, source: Tensor, buffer: Tensor, start: int) -> Copy:
        target = buffer[start : start + source.numel()].view(source.shape)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            # blocking: a thread that waits for it leaves its core to others
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
        source.record_stream(self._stream)  # its memory is not used again before the copy has been made
        return _CudaCopy(event, target)


@dataclass(frozen=True, slots=True)
class _CudaCopy:
    event: Any  # torch.cuda.Event, whose methods have no types
    target: Tensor

    def done(self) -> bool:
        try:
            return bool(self.event.query())
        except RuntimeError:  # `wait` raises it
            return True

    def wait(self) -> NDArray[np.float32]:
        self.event.synchronize()
        return self.target.numpy()


class Arrivals:
    """The vectors of one call: [rows, D], NaN where none is sent. `width` is D where none is sent at all."""

    def __init__(self, landing: Landing, rows: int, width: int) -> None:
        self._landing, self._rows, self._width = landing, rows, width
        self._out: NDArray[np.float32] | None = None
        self._last = 0

    def add(self, vectors: Tensor, rows: NDArray[np.int64]) -> None:
        """Send the vectors [B, D] of these rows."""
        if self._out is None:
            self._out = np.full((self._rows, vectors.shape[-1]), np.nan, np.float32)
        self._last = self._landing.send(vectors, self._out, rows)

    def complete(self) -> bool:
        """Whether all that was sent has arrived. Does not wait."""
        return self._landing.landed(self._last)

    def all(self) -> NDArray[np.float32]:
        """The vectors, when all have arrived. Raises: RuntimeError: the device failed."""
        self._landing.land(self._last)
        return self._out if self._out is not None else np.full((self._rows, self._width), np.nan, np.float32)


class Pending:
    """A call whose batches are submitted to the device.

    Args:
        done: whether `finish` would not have to wait for the device.
        finish: waits for the vectors and completes them.
    """

    def __init__(self, done: Callable[[], bool], finish: Callable[[], EncodedTexts]) -> None:
        self._done, self._finish = done, finish
        self._result: EncodedTexts | None = None

    def done(self) -> bool:
        """Whether the device has computed everything. Does not wait."""
        return self._result is not None or self._done()

    def result(self) -> EncodedTexts:
        """The call's vectors. Raises: ReplicaError: the device failed."""
        if self._result is None:
            self._result = self._finish()
        return self._result

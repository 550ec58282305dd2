"""Vectors on their way to the host: rows in their places, memory used again only when its copy has arrived."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.engine.device.in_flight import Arrivals, Arrived, CudaLane, Pending, Ring
from workers.records.tokens import EncodedTexts

FLOAT = 4


@dataclass
class SlowCopy:
    """Moves its vectors only when it is waited for, as a device may: what reads earlier reads what was there before."""

    source: Tensor
    target: Tensor
    arrived: bool = False

    def done(self) -> bool:
        return self.arrived

    def wait(self) -> np.ndarray:
        self.target.copy_(self.source)
        self.arrived = True
        return self.target.numpy()


@dataclass
class SlowLane:
    """Stands for CUDA's stream and events on a CPU."""

    pinned_floats: list[int] = field(default_factory=list)
    copies: list[SlowCopy] = field(default_factory=list)

    def pinned(self, floats: int) -> Tensor:
        self.pinned_floats.append(floats)
        return torch.full((floats,), torch.nan)

    def copy(self, source: Tensor, buffer: Tensor, start: int) -> SlowCopy:
        end = start + source.numel()
        assert end <= len(buffer), "beyond the buffer"
        mine = buffer[start:end]
        for other in self.copies:
            if not other.arrived:
                first, last = other.target.data_ptr(), other.target.data_ptr() + FLOAT * other.target.numel()
                assert mine.data_ptr() >= last or mine.data_ptr() + FLOAT * len(mine) <= first, "a piece is used twice"
        self.copies.append(SlowCopy(source, mine.view(source.shape)))
        return self.copies[-1]

    @property
    def waited(self) -> int:
        return sum(copy.arrived for copy in self.copies)


def vectors(count: int, width: int, first: float) -> Tensor:
    return first + torch.arange(count * width, dtype=torch.float32).view(count, width)


def test_rows_come_to_their_places_and_the_others_are_nan() -> None:
    for landing in (Arrived(), Ring(SlowLane())):
        arrivals = Arrivals(landing, 6, 3)
        arrivals.add(vectors(2, 3, 0.0), np.array([4, 1]))
        arrivals.add(vectors(3, 3, 100.0), np.array([0, 5, 2]))
        found = arrivals.all()
        assert found[[4, 1, 0, 5, 2]].tolist() == [[0, 1, 2], [3, 4, 5], [100, 101, 102], [103, 104, 105], [106, 107, 108]]
        assert np.isnan(found[3]).all()
        assert found.dtype == np.float32


def test_no_vectors_at_all() -> None:
    for landing in (Arrived(), Ring(SlowLane())):
        arrivals = Arrivals(landing, 2, 5)
        assert arrivals.complete()
        assert arrivals.all().shape == (2, 5)
        assert np.isnan(arrivals.all()).all()


def test_nothing_is_waited_for_before_it_is_asked_for() -> None:
    lane = SlowLane()
    ring = Ring(lane)
    first, second = Arrivals(ring, 4, 2), Arrivals(ring, 4, 2)
    for arrivals in (first, second):
        for row in range(0, 4, 2):
            arrivals.add(vectors(2, 2, 10.0 * row), np.array([row, row + 1]))
    assert lane.waited == 0
    assert not first.complete()
    assert first.all()[3].tolist() == [22, 23]
    assert lane.waited == 2, "the second call was waited for with the first"
    assert first.complete()
    assert not second.complete()
    assert second.all()[3].tolist() == [22, 23]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_sizes_arrives_whole(seed: int) -> None:
    """Hundreds of calls of any size through a small ring: pieces wrap around, the buffer grows, the oldest are landed."""
    generator = np.random.default_rng(seed)
    lane = SlowLane()
    ring = Ring(lane, least_bytes=64 * FLOAT, most_bytes=512 * FLOAT)
    open_calls: list[tuple[Arrivals, np.ndarray]] = []

    def check(arrivals: Arrivals, expected: np.ndarray) -> None:
        assert np.array_equal(arrivals.all(), expected)

    for _ in range(300):
        width, rows = int(generator.integers(1, 9)), int(generator.integers(1, 30))
        order, expected = generator.permutation(rows), np.empty((rows, width), np.float32)
        arrivals = Arrivals(ring, rows, width)
        for part in np.array_split(order, generator.integers(1, 4)):
            if len(part):
                some = generator.random((len(part), width), np.float32)
                expected[part] = some
                arrivals.add(torch.from_numpy(some), part)
        open_calls.append((arrivals, expected))
        if generator.random() < 0.1:
            open_calls.pop(int(generator.integers(len(open_calls))))  # an abandoned call: nobody asks for it
        while len(open_calls) > 2:
            check(*open_calls.pop(0))
    for one in open_calls:
        check(*one)
    assert lane.pinned_floats == sorted(lane.pinned_floats)
    assert max(lane.pinned_floats) <= 512
    assert len(lane.pinned_floats) <= 4
    assert len(ring._under_way) == 0


def test_a_copy_larger_than_the_limit_gets_memory_of_its_own() -> None:
    lane = SlowLane()
    ring = Ring(lane, least_bytes=8 * FLOAT, most_bytes=16 * FLOAT)
    arrivals = Arrivals(ring, 101, 1)
    arrivals.add(vectors(1, 1, 7.0), np.array([100]))
    arrivals.add(vectors(100, 1, 0.0), np.arange(100))
    assert arrivals.all()[[0, 99, 100], 0].tolist() == [0, 99, 7]
    assert lane.pinned_floats == [8, 100]


def test_two_windows_fit_without_waiting() -> None:
    """Of 8,192 documents in 1,024 components each, in batches of 1,000."""
    lane = SlowLane()
    ring = Ring(lane)
    for _ in range(2):
        arrivals = Arrivals(ring, 8192, 1024)
        for rows in np.array_split(np.arange(8192), 8):
            arrivals.add(torch.empty(len(rows), 1024), rows)
    assert lane.waited == 0
    assert max(lane.pinned_floats) * FLOAT <= 1 << 26


def test_the_device_fails_while_it_is_waited_for() -> None:
    """Every call that was under way says so, also one whose copy was waited for to make room for another."""

    class Broken(SlowLane):
        def copy(self, source: Tensor, buffer: Tensor, start: int) -> SlowCopy:
            copy = super().copy(source, buffer, start)

            def wait() -> np.ndarray:
                raise RuntimeError("CUDA error: unspecified launch failure")

            copy.wait = wait  # type: ignore[method-assign]
            return copy

    ring = Ring(Broken(), least_bytes=4 * FLOAT, most_bytes=4 * FLOAT)
    first, second = Arrivals(ring, 4, 1), Arrivals(ring, 4, 1)
    first.add(vectors(4, 1, 0.0), np.arange(4))
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        second.add(vectors(4, 1, 0.0), np.arange(4))
    assert first.complete()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="unspecified launch failure"):
            first.all()


@pytest.mark.gpu
def test_copies_of_a_real_device() -> None:
    """Each is as its source was when it was sent, whatever the device computes afterwards."""
    device = torch.device("cuda")
    ring = Ring(CudaLane(device), least_bytes=1 << 16, most_bytes=1 << 20)
    generator, expected, calls = torch.Generator(device).manual_seed(1), [], []
    work = torch.randn(2048, 2048, device=device)
    for _ in range(50):
        source = torch.randn(300, 384, device=device, generator=generator)
        for _ in range(5):
            work = torch.nn.functional.normalize(work @ work, dim=-1)  # the copy is behind it
        kept = source.clone()
        arrivals = Arrivals(ring, 300, 384)
        arrivals.add(source, np.arange(300)[::-1].copy())
        del source  # its memory may be used again at once
        torch.full((300, 384), torch.nan, device=device)
        calls.append(arrivals)
        expected.append(kept)
    for arrivals, kept in zip(calls, expected, strict=True):
        assert np.array_equal(arrivals.all()[::-1], kept.cpu().numpy())


def test_a_result_is_made_once() -> None:
    made: list[int] = []

    def finish() -> EncodedTexts:
        made.append(1)
        return EncodedTexts(np.zeros((1, 1), np.float32), None, 1)

    pending = Pending(lambda: False, finish)
    assert not pending.done()
    assert pending.result() is pending.result()
    assert pending.done()
    assert made == [1]

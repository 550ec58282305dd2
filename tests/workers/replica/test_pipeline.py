"""The pipeline overlaps stages, bounds the items in flight, and fails one job without affecting others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from workers.replica.pipeline import FINISHING, Later, Pipeline

LONG = 200  # seconds that nothing here takes


class CountingJob:
    """Yields numbers, collects what comes out, and remembers how it ended."""

    def __init__(self, numbers: range, *, read_seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.numbers, self.read_seconds, self.fail_at = numbers, read_seconds, fail_at
        self.read = 0
        self.out: list[int] = []
        self.abandoned = False
        self.seconds: dict[str, float] = {}

    def items(self) -> Iterator[int]:
        for number in self.numbers:
            if number == self.fail_at:
                raise ValueError(f"cannot read {number}")
            time.sleep(self.read_seconds)
            self.read += 1
            yield number

    def append(self, item: int) -> None:
        self.out.append(item)

    def finish(self, stage_seconds: Mapping[str, float]) -> list[int]:
        self.seconds = dict(stage_seconds)
        return self.out

    def abandon(self) -> None:
        self.abandoned = True


def double(item: int) -> int:
    if item == 666:
        raise ArithmeticError("poisoned")
    return 2 * item


@pytest.fixture
def pipeline() -> Iterator[Pipeline[list[int]]]:
    line: Pipeline[list[int]] = Pipeline([("double", double), ("keep", lambda item: item)], waiting="keep")
    yield line
    line.close()


def test_items_come_out_in_order_and_jobs_one_behind_the_other(pipeline: Pipeline[list[int]]) -> None:
    futures = [pipeline.submit(CountingJob(range(i, i + 50))) for i in (0, 100, 200)]
    for start, future in zip((0, 100, 200), futures, strict=True):
        assert future.result(LONG) == [2 * n for n in range(start, start + 50)]


@pytest.mark.parametrize("bad", [CountingJob(range(20), fail_at=7), CountingJob(range(660, 680))])
def test_an_error_fails_its_own_job_alone(pipeline: Pipeline[list[int]], bad: CountingJob) -> None:
    jobs = (CountingJob(range(5)), bad, CountingJob(range(9)))
    before, failed, after = (pipeline.submit(job) for job in jobs)
    assert before.result(LONG) == [0, 2, 4, 6, 8]
    with pytest.raises((ValueError, ArithmeticError)):
        failed.result(LONG)
    assert bad.abandoned
    assert after.result(LONG) == [2 * n for n in range(9)]


def test_an_error_in_finish_reaches_the_future_and_abandons(pipeline: Pipeline[list[int]]) -> None:
    class Unwritable(CountingJob):
        def finish(self, stage_seconds: Mapping[str, float]) -> list[int]:
            raise OSError("disk full")

    job = Unwritable(range(3))
    with pytest.raises(OSError, match="disk full"):
        pipeline.submit(job).result(LONG)
    assert job.abandoned


class Sending(CountingJob):
    """Its `finish` waits, as one does that puts parts."""

    def __init__(self, numbers: range, sent: threading.Event) -> None:
        super().__init__(numbers)
        self.sent, self.sending = sent, threading.Event()

    def finish(self, stage_seconds: Mapping[str, float]) -> list[int]:
        self.sending.set()
        assert self.sent.wait(LONG)
        return super().finish(stage_seconds)


def test_items_of_the_next_job_are_written_while_one_is_finished(pipeline: Pipeline[list[int]]) -> None:
    sent = threading.Event()
    first, second = Sending(range(3), sent), CountingJob(range(100))
    waits, passes = pipeline.submit(first), pipeline.submit(second)
    assert first.sending.wait(LONG)
    assert passes.result(LONG) == [2 * n for n in range(100)]  # read, encoded, written and finished before the first one
    assert not waits.done()
    sent.set()
    assert waits.result(LONG) == [0, 2, 4]


def test_no_more_jobs_are_finished_at_the_same_time_than_promised(pipeline: Pipeline[list[int]]) -> None:
    sent = threading.Event()
    jobs = [Sending(range(3), sent) for _ in range(FINISHING + 1)]
    last = CountingJob(range(2))
    futures = [pipeline.submit(job) for job in (*jobs, last)]
    assert all(job.sending.wait(LONG) for job in jobs[:FINISHING])
    time.sleep(0.2)
    assert not jobs[FINISHING].sending.is_set()
    assert not last.out, "what comes after a job that waits to be finished waits as well: the local disk is bounded"
    sent.set()
    assert [future.result(LONG) for future in futures] == [*[[0, 2, 4]] * (FINISHING + 1), [0, 2]]


def test_a_failed_finish_makes_room_for_the_next(pipeline: Pipeline[list[int]]) -> None:
    class Unwritable(CountingJob):
        def finish(self, stage_seconds: Mapping[str, float]) -> list[int]:
            raise OSError("disk full")

    failed = [pipeline.submit(Unwritable(range(2))) for _ in range(2 * FINISHING)]
    good = pipeline.submit(CountingJob(range(2)))
    assert all(isinstance(future.exception(LONG), OSError) for future in failed)
    assert good.result(LONG) == [0, 2]


def test_the_reader_is_held_back_by_the_queues() -> None:
    gate = threading.Event()

    def blocked(item: Any) -> Any:
        gate.wait(LONG)
        return item

    line: Pipeline[list[int]] = Pipeline([("slow", blocked)], waiting="slow", depth=2)
    job = CountingJob(range(1000))
    future = line.submit(job)
    time.sleep(0.3)
    assert job.read <= 2 + 1 + 1  # queue, the blocked stage, the one in the reader's hand
    gate.set()
    assert len(future.result(LONG)) == 1000
    line.close()


@pytest.mark.alone
def test_stages_overlap_and_the_next_job_is_read_meanwhile() -> None:
    def slow(item: Any) -> Any:
        time.sleep(0.02)
        return item

    line: Pipeline[list[int]] = Pipeline([("encode", slow)], waiting="encode")
    began = time.perf_counter()
    jobs = [CountingJob(range(10), read_seconds=0.015) for _ in range(4)]
    for future in [line.submit(job) for job in jobs]:
        future.result(LONG)
    elapsed = time.perf_counter() - began
    alone = 4 * 10 * (0.015 + 0.02)
    assert elapsed < 0.8 * alone
    assert jobs[3].seconds["encode"] == pytest.approx(0.2, rel=0.5)
    assert line.totals["encode"] == pytest.approx(0.8, rel=0.3)
    line.close()


class Device:
    """Computes what is submitted in its order, each item when the test says so, and notes what happens when."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.ended = [threading.Event() for _ in range(100)]

    def submit(self, item: int) -> Later:
        self.happened.append(f"submit {item}")

        def result() -> int:
            assert self.ended[item].wait(LONG)
            self.happened.append(f"result {item}")
            if item == 66:
                raise ArithmeticError("the device failed")
            return 2 * item

        return Later(self.ended[item].is_set, result)

    def until(self, expected: list[str]) -> None:
        deadline = time.monotonic() + LONG
        while self.happened != expected:
            assert time.monotonic() < deadline, self.happened
            time.sleep(0.002)


def test_an_item_is_submitted_before_the_one_before_it_has_ended() -> None:
    device = Device()
    line: Pipeline[list[int]] = Pipeline([("encode", device.submit)], waiting="encode")
    futures = [line.submit(CountingJob(range(start, start + 2))) for start in (0, 2)]
    device.until(["submit 0", "submit 1"])  # of two under way the older one is waited for
    device.ended[0].set()
    device.until(["submit 0", "submit 1", "result 0", "submit 2"])  # also across jobs
    device.ended[1].set()
    device.ended[2].set()
    assert futures[0].result(LONG) == [0, 2], "a finished job waits for the next one"
    device.until(["submit 0", "submit 1", "result 0", "submit 2", "result 1", "submit 3", "result 2"])
    device.ended[3].set()
    assert futures[1].result(LONG) == [4, 6]
    line.close()


def test_a_result_is_passed_on_although_no_item_follows() -> None:
    device = Device()
    line: Pipeline[list[int]] = Pipeline([("encode", device.submit)], waiting="encode")
    job, gate = CountingJob(range(1)), threading.Event()
    read = job.items

    def items() -> Iterator[int]:
        yield from read()
        gate.wait(LONG)

    job.items = items  # type: ignore[method-assign]
    future = line.submit(job)
    device.until(["submit 0"])
    device.ended[0].set()
    device.until(["submit 0", "result 0"])
    deadline = time.monotonic() + LONG
    while not job.out:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    gate.set()
    assert future.result(LONG) == [0]
    line.close()


def test_a_computation_that_fails_later_fails_its_own_job_alone() -> None:
    device = Device()
    for event in device.ended:
        event.set()
    line: Pipeline[list[int]] = Pipeline([("encode", device.submit), ("keep", lambda item: item)], waiting="encode")
    jobs = (CountingJob(range(50, 54)), CountingJob(range(64, 70)), CountingJob(range(80, 89)))
    before, failed, after = (line.submit(job) for job in jobs)
    assert before.result(LONG) == [100, 102, 104, 106]
    with pytest.raises(ArithmeticError, match="the device failed"):
        failed.result(LONG)
    assert jobs[1].abandoned
    assert after.result(LONG) == [2 * number for number in range(80, 89)]
    line.close()


def test_what_is_under_way_is_finished_when_the_pipeline_closes() -> None:
    device = Device()
    line: Pipeline[list[int]] = Pipeline([("encode", device.submit)], waiting="encode")
    future = line.submit(CountingJob(range(3)))
    threading.Timer(0.05, lambda: [event.set() for event in device.ended]).start()
    line.close()
    assert future.result(0) == [0, 2, 4]

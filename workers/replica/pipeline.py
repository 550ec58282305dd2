"""A pipeline of threads, read | stages | write | finish, joined by short queues. Jobs pass through it one after another.

    submit(job) -> Future        the reader starts the next job while later stages still work on this one
    stages                       one item in, one item out; seconds in a stage are added to the job's account of that stage
    finish                       ends a job beside the others: the items of the next jobs are written meanwhile
    Later                        an item whose computation goes on elsewhere, on a GPU: its stage takes the next item, and
                                 passes the result on when it is there, in the order of the items
    errors                       the first error fails its own job only: its remaining items are dropped, other jobs go on

Memory is bounded by the queues (`depth` items between two stages), the local disk by FINISHING jobs that end at the same
time, not by the size of a job. Jobs begin in the order in which they were submitted, and may end in another. The pipeline
knows nothing of documents or models: a job provides source and sink, the caller of Pipeline the stages in between.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

QUEUE_DEPTH = 2  # enough to compensate for one slow item; an item is a window of documents
FINISHING = 2  # jobs; the writing thread waits while so many are being finished: each keeps its files on the local disk
FINISH = "finish"  # the stage's name
POLL_SECONDS = 0.001  # how often a stage with an empty queue looks whether a computation under way has ended
_END = object()

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Job(Protocol[R_co]):
    """A unit of work. `items` runs in the reading thread, `append` in the writing thread; the last call is `finish` or
    `abandon`, in a thread of its own while other jobs go on."""

    def items(self) -> Iterator[Any]: ...
    def append(self, item: Any) -> None: ...
    def finish(self, stage_seconds: Mapping[str, float]) -> R_co: ...
    def abandon(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Later:
    """An item that is still computed. `done` does not wait; `result` does, and raises what the computation raised."""

    done: Callable[[], bool]
    result: Callable[[], Any]


class _Ticket(Generic[R]):
    """A job in the pipeline: its future, its first error, and the seconds that each stage spent on it."""

    def __init__(self, job: Job[R]) -> None:
        self.job = job
        self.future: Future[R] = Future()
        self.error: BaseException | None = None
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.error = self.error or error

    def charge(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class Pipeline(Generic[R]):
    """Runs jobs through `stages` for as long as the process lives.

    Args:
        stages: (name, function) in order; the function maps one item to one item, or to a Later.
        waiting: the stage whose idle time is reported as `wait` (the encoder, which uses the GPU).
        depth: items in each queue.
    """

    def __init__(
        self, stages: Sequence[tuple[str, Callable[[Any], Any]]], *, waiting: str, depth: int = QUEUE_DEPTH
    ) -> None:
        self._inbox: queue.Queue[_Ticket[R] | None] = queue.Queue()
        queues: list[queue.Queue[Any]] = [queue.Queue(depth) for _ in range(len(stages) + 1)]
        self._waiting = waiting
        self.totals: dict[str, float] = dict.fromkeys(("read", *(name for name, _ in stages), "write", FINISH, "wait"), 0.0)
        self._lock = threading.Lock()
        self._ended: queue.Queue[_Ticket[R] | None] = queue.Queue()
        self._places = threading.Semaphore(FINISHING)
        self._threads = [
            threading.Thread(target=self._read, args=(queues[0],), name="read", daemon=True),
            *(
                threading.Thread(target=self._work, args=(name, call, queues[i], queues[i + 1]), name=name, daemon=True)
                for i, (name, call) in enumerate(stages)
            ),
            threading.Thread(target=self._write, args=(queues[-1],), name="write", daemon=True),
            *(threading.Thread(target=self._finish, name=f"{FINISH}-{i}", daemon=True) for i in range(FINISHING)),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job[R]) -> Future[R]:
        """Queue a job. Its future returns what `finish` returned, or raises the first error of any stage."""
        ticket = _Ticket(job)
        self._inbox.put(ticket)
        return ticket.future

    def close(self) -> None:
        """Wait for submitted jobs, then stop the threads."""
        self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _read(self, out: queue.Queue[Any]) -> None:
        while (ticket := self._inbox.get()) is not None:
            try:
                source = ticket.job.items()
                while ticket.error is None:
                    item = self._timed("read", ticket, next, source, _END)
                    if item is _END:
                        break
                    out.put((ticket, item))
            except BaseException as error:  # noqa: BLE001 - passed to the future
                ticket.fail(error)
            out.put((ticket, _END))
        out.put(None)

    def _work(self, name: str, call: Callable[[Any], Any], source: queue.Queue[Any], out: queue.Queue[Any]) -> None:
        held: deque[tuple[_Ticket[R], Any]] = deque()  # messages in order; the first one is under way
        while True:
            message, waited = self._next(name, source, held, out)
            if message is None:
                self._pass_on(name, held, out, under_way=0)
                out.put(None)
                return
            ticket, item = message
            if name == self._waiting:
                self._charge("wait", ticket, waited)
            if item is not _END:
                if ticket.error is not None:
                    continue
                try:
                    item = self._timed(name, ticket, call, item)
                except BaseException as error:  # noqa: BLE001 - passed to the future
                    ticket.fail(error)
                    continue
            held.append((ticket, item))
            self._pass_on(name, held, out, under_way=1)

    def _next(
        self, name: str, source: queue.Queue[Any], held: deque[tuple[_Ticket[R], Any]], out: queue.Queue[Any]
    ) -> tuple[Any, float]:
        """The next message, and the seconds without work. While none is there, a computation that ends is passed on."""
        while held:
            ticket, item = held[0]
            ended = item.done()
            try:
                if ended:
                    return source.get_nowait(), 0.0  # first: the device has nothing to do
                return self._timed(name, ticket, source.get, True, POLL_SECONDS), 0.0
            except queue.Empty:
                if ended:
                    self._pass_on(name, held, out, under_way=0)
        began = time.perf_counter()
        return source.get(), time.perf_counter() - began

    def _pass_on(self, name: str, held: deque[tuple[_Ticket[R], Any]], out: queue.Queue[Any], *, under_way: int) -> None:
        """Pass messages on in their order, until no more than `under_way` computations are, and what is behind them."""
        while held:
            ticket, item = held[0]
            if isinstance(item, Later):
                if sum(isinstance(each, Later) for _, each in held) <= under_way:
                    return
                if ticket.error is None:
                    try:
                        item = self._timed(name, ticket, item.result)
                    except BaseException as error:  # noqa: BLE001 - passed to the future
                        ticket.fail(error)
            held.popleft()
            if not isinstance(item, Later):
                out.put((ticket, item))

    def _write(self, source: queue.Queue[Any]) -> None:
        while (message := source.get()) is not None:
            ticket, item = message
            if item is _END:
                self._places.acquire()  # here: nothing is appended for another job while all threads are busy
                self._ended.put(ticket)
            elif ticket.error is None:
                try:
                    self._timed("write", ticket, ticket.job.append, item)
                except BaseException as error:  # noqa: BLE001 - passed to the future
                    ticket.fail(error)
        for _ in range(FINISHING):
            self._ended.put(None)

    def _finish(self) -> None:
        while (ticket := self._ended.get()) is not None:
            if ticket.error is None:
                try:
                    # `finish` gets the seconds of the other stages; its own are added to the totals only
                    result = self._timed(FINISH, ticket, ticket.job.finish, dict(ticket.seconds))
                    ticket.future.set_result(result)
                except BaseException as error:  # noqa: BLE001 - passed to the future
                    ticket.fail(error)
            if ticket.error is not None:
                self._give_up(ticket)
            self._places.release()

    def _give_up(self, ticket: _Ticket[R]) -> None:
        try:
            ticket.job.abandon()
        except Exception as error:  # noqa: BLE001 - reported as a note to the first error
            ticket.error = ticket.error or error
            ticket.error.add_note(f"while abandoning the job: {error!r}")
        ticket.future.set_exception(ticket.error or RuntimeError("job ended without result or error"))

    def _timed(self, stage: str, ticket: _Ticket[R], call: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args)
        finally:
            self._charge(stage, ticket, time.perf_counter() - began)

    def _charge(self, stage: str, ticket: _Ticket[R], seconds: float) -> None:
        ticket.charge(stage, seconds)
        with self._lock:  # several threads finish jobs
            self.totals[stage] += seconds

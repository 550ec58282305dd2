"""Receipts on the store: one small JSON a shard, whose existence is the shard's commit.

    runs/<run_id>/receipts/<number // 1000>/<number>.json
    runs/<run_id>/ledger/                                    the same again, 200 to 2,000 a file: receipt_log.py

Resume is the manifest minus the receipts: load() lists once and opens no input; most receipts it takes from the log. The
first receipt of a shard wins for good; drop() alone takes one back, when its files turn out damaged. account() is where 'no
row is lost' is checked (jobs/state/accounting.py). Knows nothing of Ray, documents or part files' contents.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from types import TracebackType
from typing import Self

from jobs.state.receipt_log import WITHDRAWN, check_receipt, encode_segment, read_receipts
from jobs.state.receipts import Receipts
from workers.errors import RunAborted, TransientError, UsageError
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RunPaths

SEGMENT_RECEIPTS = 2000  # in one file of the log: a killed driver leaves at most so many that are read one by one
FIRST_SEGMENTS = 200  # receipts in each, until a tenth of those logged are more: what waits takes a kilobyte each
LEAST_LOGGED = 64  # so many are read from the log rather than one by one, even by the driver that wrote them
MOST_IN_FLIGHT = 4096  # receipts that wait for the store: beyond, the driver waits as well
_WRITERS = 8
log = logging.getLogger("reembed")


class Ledger:
    """The receipts of one run, for the one driver that writes them.

    `guard` is called before every write and raises when this driver may not write any more. `generation`: of its lock.
    `segment`: receipts in each file of the log, instead of FIRST_SEGMENTS to SEGMENT_RECEIPTS.
    """

    def __init__(
        self, store: Store, run_id: str, *, guard: Callable[[], None] | None = None, generation: int = 0,
        segment: int | None = None,
    ) -> None:  # fmt: skip
        self._store, self._run_id, self._paths = store, run_id, RunPaths(run_id)
        self._guard, self._generation, self._segment = guard, generation, segment
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="ledger")
        self._in_flight: deque[Future[Receipt]] = deque()
        self._unlogged: dict[int, bytes] = {}  # receipts that stand and are in no file of the log yet
        self._logged = 0
        self._changing = threading.Lock()  # of _unlogged
        self._sequence = count()

    def record(self, receipt: Receipt) -> Receipt:
        """Commit a shard; the receipt that stands afterwards, which is an earlier one where there is one. Idempotent.

        Raises: RunAborted, UsageError, TransientError.
        """
        path, data = self._paths.receipt(receipt.shard), receipt.to_json()
        if self._guard:
            self._guard()
        if not self._store.put_if_absent(path, data):
            try:
                data = self._store.read(path)
            except FileNotFoundError:
                raise RunAborted(
                    f"{self._store.uri_of(path)}: vanished while it was written; run the same command again"
                ) from None
            receipt = check_receipt(self._store, path, receipt.shard, data)
        self._note(receipt.shard, data)
        return receipt

    def record_async(self, receipt: Receipt) -> Future[Receipt]:
        """As record(), without waiting for the store. The error of an earlier one is raised here or by drain()."""
        while self._in_flight and (self._in_flight[0].done() or len(self._in_flight) >= MOST_IN_FLIGHT):
            self._in_flight.popleft().result()
        future = self._writers.submit(self.record, receipt)
        self._in_flight.append(future)
        return future

    def drain(self) -> None:
        """Wait until all is recorded. Raises: the first error met."""
        while self._in_flight:
            self._in_flight.popleft().result()

    def close(self) -> None:
        """Wait for what is being written and stop the threads; errors are drain()'s to raise."""
        self._writers.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def load(self) -> Receipts:
        """All receipts, by shard, as they stand on the store. Brings the log up to date.

        Raises: RunAborted naming a file that is not one. UsageError, TransientError.
        """
        self._log(LEAST_LOGGED)
        read = read_receipts(self._store, self._run_id, self._note)
        if read.stale:  # deleted by hand: what is recorded next must not be taken for what the log still has
            self._withdraw(read.stale)
        return read.receipts

    def drop(self, shards: Iterable[int]) -> None:
        """Take receipts back: these shards are pending again."""
        numbers = list(shards)
        if numbers:
            self._withdraw(numbers)  # first: killed in between, the receipts are read one by one
        for number in numbers:
            if self._guard:
                self._guard()
            self._store.delete(self._paths.receipt(number))

    def _note(self, number: int, data: bytes) -> None:
        """This receipt stands: it goes into the log with the next few thousand."""
        if b"\n" not in data:  # edited by hand, it is read from where it lies
            with self._changing:
                self._unlogged[number] = data
            self._log()

    def _log(self, least: int | None = None) -> None:
        """Write what has gathered, if it is so much. The log is an aid: a store that fails here costs a warning."""
        with self._changing:
            least = least or self._segment or min(SEGMENT_RECEIPTS, max(FIRST_SEGMENTS, self._logged // 10))
            if len(self._unlogged) < least:
                return
            entries, self._unlogged = self._unlogged, {}
            self._logged += len(entries)
        try:
            self._put_segment(entries)
        except (TransientError, UsageError) as error:
            log.warning("%d receipts are not in the ledger's log and will be read one by one: %s", len(entries), error)

    def _withdraw(self, numbers: Iterable[int]) -> None:
        with self._changing:
            for number in numbers:
                self._unlogged.pop(number, None)
        self._put_segment(dict.fromkeys(numbers, WITHDRAWN))

    def _put_segment(self, entries: dict[int, bytes]) -> None:
        data = encode_segment(entries)
        if self._guard:
            self._guard()
        while not self._store.put_if_absent(self._paths.ledger_segment(self._generation, next(self._sequence)), data):
            pass  # of an earlier ledger of this generation


def load_receipts(store: Store, run_id: str) -> Receipts:
    """All receipts of a run that is only looked at, by shard. Raises: RunAborted, UsageError, TransientError."""
    return read_receipts(store, run_id).receipts

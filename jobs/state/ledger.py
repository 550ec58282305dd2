"""The ledger: the receipts of a run on storage. A receipt is one small JSON object, and its existence commits its shard.

    runs/<run_id>/receipts/<number // 1000>/<number>.json
    runs/<run_id>/ledger/                                    copies, 200 to 2,000 in a file (receipt_log.py)

A resumed run embeds the manifest's shards without a receipt. load() lists once, opens no input, and takes most receipts from
the log. The first receipt of a shard is final; only drop() takes one back, if its files turn out to be damaged.
jobs/state/accounting.py checks that no row is lost. Knows nothing of Ray, documents or the contents of part files.
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

SEGMENT_RECEIPTS = 2000  # in one file of the log; a killed driver leaves at most this many to be read one by one
FIRST_SEGMENTS = 200  # in a file while fewer than ten times as many are logged: a waiting receipt takes 1 KB of memory
LEAST_LOGGED = 64  # load() first writes this many or more unlogged receipts into the log, to read them from there
MOST_IN_FLIGHT = 4096  # receipts that wait for the store; beyond this the driver waits
_WRITERS = 8
log = logging.getLogger("reembed")


class Ledger:
    """The receipts of one run, for the one driver that writes them.

    `guard` is called before every write, and raises if this driver may no longer write. `generation`: of its lock.
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
        self._unlogged: dict[int, bytes] = {}  # stored receipts that are in no file of the log yet
        self._logged = 0
        self._changing = threading.Lock()  # of _unlogged
        self._sequence = count()

    def record(self, receipt: Receipt) -> Receipt:
        """Commit a shard. Returns the stored receipt, which is the earlier one if there was one. Idempotent.

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
        """Wait until all receipts are stored. Raises: the first error."""
        while self._in_flight:
            self._in_flight.popleft().result()

    def close(self) -> None:
        """Wait for pending writes and stop the threads. Errors are raised by drain(), not here."""
        self._writers.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def load(self) -> Receipts:
        """All stored receipts, by shard. Brings the log up to date.

        Raises: RunAborted: names a file that is not a receipt. UsageError, TransientError.
        """
        self._log(LEAST_LOGGED)
        read = read_receipts(self._store, self._run_id, self._note)
        if read.stale:  # deleted by hand: a new receipt of the shard must not be confused with the log's old entry
            self._withdraw(read.stale)
        return read.receipts

    def drop(self, shards: Iterable[int]) -> None:
        """Delete the receipts of these shards, which are then pending again."""
        numbers = list(shards)
        if numbers:
            self._withdraw(numbers)  # first: if killed before the deletion, the receipts are read one by one
        for number in numbers:
            if self._guard:
                self._guard()
            self._store.delete(self._paths.receipt(number))

    def _note(self, number: int, data: bytes) -> None:
        """Put a stored receipt into the next file of the log."""
        if b"\n" not in data:  # a receipt edited by hand stays out of the log
            with self._changing:
                self._unlogged[number] = data
            self._log()

    def _log(self, least: int | None = None) -> None:
        """Write the unlogged receipts, if there are at least that many. Optional: errors of the store are logged."""
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
            pass  # the file exists: from an earlier ledger of this generation


def load_receipts(store: Store, run_id: str) -> Receipts:
    """All receipts of a run, by shard, without writing anything. Raises: RunAborted, UsageError, TransientError."""
    return read_receipts(store, run_id).receipts

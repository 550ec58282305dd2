"""Receipts on the store: one small JSON a shard, whose existence is the shard's commit.

    runs/<run_id>/receipts/<number // 1000>/<number>.json

Resume is the manifest minus the receipts: load() lists once and reads in parallel, no input is opened. The first receipt of
a shard wins for good; drop() alone takes one back, when its files turn out damaged. account() is where 'no row is lost' is
checked. Knows nothing of Ray, documents or part files' contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from jobs.run_store import RunPaths
from workers.errors import RunAborted
from workers.shard import Receipt, Shard
from workers.storage import Store

_READERS = 32  # small objects are all latency
_WRITERS = 8
_PER_FOLDER = 1000
ALTERED = "this is a defect, or its receipt was altered"
_NAME = re.compile(r"(\d{7,})\.json")


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over receipts. Seconds are replica seconds; bytes are of the data files."""

    shards: int = 0
    documents: int = 0
    rows_read: int = 0
    rows: int = 0
    quarantined_rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    duplicate_ids: int = 0
    clipped: int = 0
    adopted: int = 0
    carried: int = 0  # shards whose parts were copied from an earlier snapshot
    carried_documents: int = 0
    reused_rows: int = 0
    repeated_rows: int = 0
    files: int = 0
    output_bytes: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    lost_objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accounting:
    """rows_in == documents + known_quarantined_rows, unless there are breaches: each a sentence that names the shard.

    `unknown` names what hides more quarantined rows.
    """

    rows_in: int
    documents: int
    rows: int
    known_quarantined_rows: int
    unknown: tuple[str, ...]
    breaches: tuple[str, ...] = ()

    @property
    def quarantined_rows(self) -> int | None:
        """None when an object or shard that could not be read hides how many."""
        return None if self.unknown else self.known_quarantined_rows


class Ledger:
    """The receipts of one run. `guard` is called before every write and raises when this driver may not write any more."""

    def __init__(self, store: Store, run_id: str, *, guard: Callable[[], None] | None = None) -> None:
        self._store = store
        self._folder = RunPaths(run_id).receipts
        self._guard = guard
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="ledger")
        self._in_flight: set[Future[Receipt]] = set()

    def record(self, receipt: Receipt) -> Receipt:
        """Commit a shard; the receipt that stands afterwards, which is an earlier one where there is one. Idempotent.

        Raises: RunAborted, UsageError, TransientError.
        """
        path = self._path(receipt.shard)
        if self._guard:
            self._guard()
        if self._store.put_if_absent(path, receipt.to_json()):
            return receipt
        standing = self._read(path)
        if standing is None:
            raise RunAborted(f"{self._store.uri_of(path)}: vanished while it was written; run the same command again")
        return standing

    def record_async(self, receipt: Receipt) -> Future[Receipt]:
        """As record(), without waiting for the store. The error of an earlier one is raised here or by drain()."""
        self._collect([future for future in self._in_flight if future.done()])
        future = self._writers.submit(self.record, receipt)
        self._in_flight.add(future)
        return future

    def drain(self) -> None:
        """Wait until all is recorded. Raises: the first error met."""
        self._collect(list(self._in_flight))

    def close(self) -> None:
        """Wait for what is being written and stop the threads; errors are drain()'s to raise."""
        self._writers.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def load(self) -> dict[int, Receipt]:
        """All receipts, by shard. Raises: RunAborted naming a file that is not one."""
        paths = [path for path in self._store.list(self._folder) if _NAME.fullmatch(path.rpartition("/")[2])]
        with ThreadPoolExecutor(_READERS) as pool:
            receipts = [receipt for receipt in pool.map(self._read, paths) if receipt is not None]
        return {receipt.shard: receipt for receipt in sorted(receipts, key=lambda item: item.shard)}

    def drop(self, shards: Iterable[int]) -> None:
        """Take receipts back: these shards are pending again."""
        for number in shards:
            if self._guard:
                self._guard()
            self._store.delete(self._path(number))

    @staticmethod
    def pending(shards: Iterable[Shard], receipts: Collection[int]) -> list[Shard]:
        """Shards without a receipt, in the manifest's order. `receipts`: by shard number."""
        return [shard for shard in shards if shard.number not in receipts]

    @staticmethod
    def totals(receipts: Mapping[int, Receipt]) -> Totals:
        met = list(receipts.values())
        stages: dict[str, float] = {}
        for receipt in met:
            for stage, seconds in receipt.stage_seconds.items():
                stages[stage] = stages.get(stage, 0.0) + seconds
        return Totals(
            shards=len(met),
            documents=sum(item.documents for item in met),
            rows_read=sum(item.rows_read for item in met),
            rows=sum(item.rows for item in met),
            quarantined_rows=sum(item.quarantined_rows for item in met),
            tokens=sum(item.tokens for item in met),
            padded_tokens=sum(item.padded_tokens for item in met),
            truncated=sum(item.truncated for item in met),
            duplicate_ids=sum(item.duplicate_ids for item in met),
            clipped=sum(item.clipped for item in met),
            adopted=sum(item.adopted for item in met),
            carried=sum(item.carried_from is not None for item in met),
            carried_documents=sum(item.documents for item in met if item.carried_from is not None),
            reused_rows=sum(item.reused_rows for item in met),
            repeated_rows=sum(item.repeated_rows for item in met),
            files=sum(len(item.files) for item in met),
            output_bytes=sum(file.bytes for item in met for file in item.files),
            seconds=sum(item.seconds for item in met),
            stage_seconds=stages,
            lost_objects=tuple(sorted({uri for item in met for uri in item.lost_objects})),
        )

    @staticmethod
    def account(shards: Iterable[Shard], receipts: Mapping[int, Receipt], quarantined: Collection[int]) -> Accounting:
        """As audit(), for callers that have no use for a run that does not add up.

        Raises:
            RunAborted: names the shard and both figures.
        """
        accounting = Ledger.audit(shards, receipts, quarantined)
        if accounting.breaches:
            raise RunAborted(
                f"{accounting.breaches[0]}; nothing is published; {ALTERED}: delete the receipt to embed it again"
            )
        return accounting

    @staticmethod
    def audit(shards: Iterable[Shard], receipts: Mapping[int, Receipt], quarantined: Collection[int]) -> Accounting:
        """Every row of every shard is embedded or quarantined, by the manifest's figures where it knows them.

        `quarantined`: shards given up, by number; one that has a receipt all the same counts as done.

        Returns:
            Sums, and a breach for each shard whose figures do not add up.
        Raises:
            RunAborted: a shard has no end yet.
        """
        rows_in = documents = rows = lost = 0
        unknown: list[str] = []
        breaches: list[str] = []
        numbers = set()
        for shard in shards:
            numbers.add(shard.number)
            receipt = receipts.get(shard.number)
            if receipt is not None:
                breaches += _breaches(shard, receipt)
                rows_in += receipt.rows_read
                documents += receipt.documents
                rows += receipt.rows
                lost += receipt.quarantined_rows
                unknown += receipt.lost_objects
            elif shard.number not in quarantined:
                raise RunAborted(f"shard {shard.number} has neither receipt nor quarantine; run the same command again")
            elif shard.rows is None:
                unknown.append(f"shard {shard.number}")
            else:
                rows_in += shard.rows
                lost += shard.rows
        strangers = sorted(set(receipts) - numbers)
        if strangers:
            breaches.append(
                f"receipts of shards {strangers[:5]} are not of this manifest; the run's folder was tampered with"
            )
        return Accounting(rows_in, documents, rows, lost, tuple(unknown), tuple(breaches))

    def _collect(self, futures: Iterable[Future[Receipt]]) -> None:
        for future in futures:
            self._in_flight.discard(future)
            future.result()

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number // _PER_FOLDER:05d}/{number:07d}.json"

    def _read(self, path: str) -> Receipt | None:
        try:
            data = self._store.read(path)
        except FileNotFoundError:
            return None  # dropped since it was listed
        try:
            receipt = Receipt.from_json(data)
            if self._path(receipt.shard) != path:
                raise ValueError(f"speaks of shard {receipt.shard}")
        except (ValueError, TypeError, KeyError) as error:
            mend = "delete it to embed the shard again"
            raise RunAborted(f"{self._store.uri_of(path)}: not a receipt ({error}); {mend}") from None
        return receipt


def load_receipts(store: Store, run_id: str) -> dict[int, Receipt]:
    """All receipts of a run that is only looked at, by shard. Raises: RunAborted, UsageError, TransientError."""
    with Ledger(store, run_id) as ledger:
        return ledger.load()


def _breaches(shard: Shard, receipt: Receipt) -> list[str]:
    name = f"shard {shard.number} ({shard.slices[0].uri}{' and others' if len(shard.slices) > 1 else ''})"
    found = []
    if shard.rows is not None and receipt.rows_read != shard.rows:
        found.append(f"{name}: the manifest has {shard.rows} rows, {receipt.rows_read} were read")
    accounted = receipt.documents + receipt.quarantined_rows
    if receipt.rows_read != accounted:
        found.append(f"{name}: {receipt.rows_read} rows read, {accounted} embedded or quarantined")
    in_files = sum(file.rows for file in receipt.files)
    if not receipt.documents <= receipt.rows == in_files:
        found.append(f"{name}: {receipt.documents} documents gave {receipt.rows} rows, the files hold {in_files}")
    return found

"""The ledger's log: copies of receipts, hundreds to thousands in one file, so that a resumed run need not read each object.

    runs/<run_id>/ledger/<generation>-<n>.jsonl.zst    zstd of lines: their SHA-256, then `number TAB receipt` each

Receipts take precedence over the log. An entry is used only if the listing shows its receipt with the same size. The latest
entry of a shard counts, and a withdrawal cancels all entries before it. A receipt that is not in the log, or only in a
damaged file of it, is read from its own object. A late, incomplete or missing log therefore costs time, but never a row.
Files sort by the driver's generation, so a withdrawal stays valid even if an earlier, frozen driver still writes.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from jobs.state.receipts import Receipts, from_lines, to_lines
from workers.errors import RunAborted
from workers.records.shard import Receipt
from workers.storage.store import Store
from workers.table.paths import RECEIPTS_PER_FOLDER, RunPaths, is_ledger_segment, receipt_shard

WITHDRAWN = b""  # in place of a receipt: cancels earlier entries of the shard
_THREADS = 32  # reading small objects is bound by latency
_AHEAD = 2 * _THREADS  # answers held while earlier ones are processed
_T = TypeVar("_T")
_R = TypeVar("_R")
log = logging.getLogger("reembed")


@dataclass(slots=True)
class Read:
    """The receipts read. `stale`: shards with an entry in the log but without a receipt."""

    receipts: Receipts = field(default_factory=Receipts)
    stale: list[int] = field(default_factory=list)


def encode_segment(entries: Mapping[int, bytes]) -> bytes:
    """`entries`: shard -> its receipt as stored, or WITHDRAWN."""
    lines = to_lines(entries)
    data = hashlib.sha256(lines).hexdigest().encode() + b"\n" + lines
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def decode_segment(data: bytes) -> list[tuple[int, bytes]]:
    """Raises: ValueError: damaged."""
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            digest, _, lines = stream.read().partition(b"\n")
    except (OSError, pa.ArrowException) as error:
        raise ValueError(str(error)) from None
    if hashlib.sha256(lines).hexdigest().encode() != digest:
        raise ValueError("its digest is another")
    return list(from_lines(lines))


def read_receipts(store: Store, run_id: str, unlogged: Callable[[int, bytes], None] | None = None) -> Read:
    """All receipts of a run: listed once, then taken from the log or read in parallel. No input is opened.

    `unlogged` is called with each receipt that was read from its own object, so that the caller can add it to the log.

    Raises:
        RunAborted: names a file that is no receipt. UsageError, TransientError.
    """
    read = Read()
    with ThreadPoolExecutor(_THREADS) as pool:
        found = _listed(store, run_id, pool)
        _from_log(store, run_id, pool, found, read)
        rest = [number for folder, sizes in found.items() for number in _left(folder, sizes)]
        for number, data in zip(rest, _ahead(pool, lambda number: _fetch(store, run_id, number), rest), strict=True):
            if data is None:
                continue  # deleted after it was listed
            read.receipts.add_json(number, data)
            if unlogged:
                unlogged(number, data)
    return read


def count_receipts(store: Store, run_id: str) -> int:
    """The number of done shards, from the listing alone. Raises: as read_receipts()."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(RECEIPTS_PER_FOLDER - sizes.count(-1) for sizes in _listed(store, run_id, pool).values())


def _listed(store: Store, run_id: str, pool: ThreadPoolExecutor) -> dict[int, array[int]]:
    """Folder -> [RECEIPTS_PER_FOLDER] sizes of its receipts, -1: none. One request for each folder, and one for all."""
    run = RunPaths(run_id)
    root = run.receipts

    def look(folder: str) -> dict[str, int]:
        return store.list(f"{root}/{folder}")

    found: dict[int, array[int]] = {}
    for paths in _ahead(pool, look, store.folders(root)):
        for path, size in paths.items():
            number = receipt_shard(path)
            if number is None:
                continue
            if run.receipt(number) != path:
                raise RunAborted(f"{store.uri_of(path)}: not a receipt (it lies in another's folder); remove it")
            sizes = found.get(number // RECEIPTS_PER_FOLDER)
            if sizes is None:
                sizes = found[number // RECEIPTS_PER_FOLDER] = array("q", [-1]) * RECEIPTS_PER_FOLDER
            sizes[number % RECEIPTS_PER_FOLDER] = size
    return dict(sorted(found.items()))


def _left(folder: int, sizes: array[int]) -> Iterator[int]:
    return (folder * RECEIPTS_PER_FOLDER + place for place, size in enumerate(sizes) if size >= 0)


def _from_log(store: Store, run_id: str, pool: ThreadPoolExecutor, found: dict[int, array[int]], read: Read) -> None:
    """Take receipts from the log, latest entry first; a shard's first entry counts. Those taken become -1 in `found`."""
    paths = sorted(path for path in store.list(RunPaths(run_id).ledger) if is_ledger_segment(path))
    met: dict[int, bytearray] = {}

    def fetch(path: str) -> list[tuple[int, bytes]]:
        try:
            return decode_segment(store.read(path))
        except (FileNotFoundError, ValueError) as error:
            log.warning("%s: left out, its receipts are read one by one: %s", store.uri_of(path), error)
            return []

    for entries in _ahead(pool, fetch, paths[::-1], ahead=_THREADS // 4):
        for number, data in entries:
            folder, place = divmod(number, RECEIPTS_PER_FOLDER)
            seen = met.get(folder)
            if seen is None:
                seen = met[folder] = bytearray(RECEIPTS_PER_FOLDER)
            if seen[place]:
                continue
            seen[place] = 1
            sizes = found.get(folder)
            size = -1 if sizes is None else sizes[place]
            if data == WITHDRAWN:
                continue
            if size < 0:
                read.stale.append(number)
            elif sizes is not None and size == len(data):
                read.receipts.add_json(number, data)
                sizes[place] = -1


def _fetch(store: Store, run_id: str, number: int) -> bytes | None:
    path = RunPaths(run_id).receipt(number)
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    check_receipt(store, path, number, data)
    return data


def check_receipt(store: Store, path: str, number: int, data: bytes) -> Receipt:
    """Raises: RunAborted: `data` is not the receipt of this shard."""
    try:
        receipt = Receipt.from_json(data)
        if receipt.shard != number:
            raise ValueError(f"speaks of shard {receipt.shard}")
    except (ValueError, TypeError, KeyError) as error:
        mend = "delete it to embed the shard again"
        raise RunAborted(f"{store.uri_of(path)}: not a receipt ({error}); {mend}") from None
    return receipt


def _ahead(pool: ThreadPoolExecutor, call: Callable[[_T], _R], items: Iterable[_T], ahead: int = _AHEAD) -> Iterator[_R]:
    """As pool.map, but with at most `ahead` calls that are running, or done and not yet consumed."""
    left = iter(items)
    waiting = deque(pool.submit(call, item) for item in islice(left, ahead))
    while waiting:
        answer = waiting.popleft().result()
        waiting.extend(pool.submit(call, item) for item in islice(left, 1))
        yield answer

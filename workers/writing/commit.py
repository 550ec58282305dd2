"""Puts the files of a shard on the store: an attempt may be killed at any moment, and no row is ever there twice.

    1. stage    runs/<run>/staged/<shard>.json: the receipt as it will be, with every file's size and SHA-256
    2. put      each file by put_if_absent; a file already there is adopted, replaced or left alone (see put_or_adopt)
    3. commit   the receipt, written by the driver (jobs/state/ledger.py)

Killed between 2 and 3, the next attempt finds the staged record and all its files: `adopt` returns the receipt and nothing
is computed again. Killed inside 2, the shard is embedded again and finds its own earlier parts, which hold the same rows:
they stay, so each row is there once. Files are compared by what their footers claim (run, model, settings, shard,
digest of the rows), never by time. An attempt that lost objects may leave a part that no later attempt writes; it is in no
receipt, and publishing removes what no receipt lists. This file knows nothing of columns or vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from workers.errors import PartConflict
from workers.host.spill_file import local_disk
from workers.records.shard import OutputFile, Receipt, Shard
from workers.storage.store import Store
from workers.table.part_file import read_footer
from workers.table.paths import RunPaths
from workers.table.schema import OF_THE_ATTEMPT, PREFIX

log = logging.getLogger("reembed")

PUT_THREADS = 16  # small parts are all latency
IN_FLIGHT_BYTES = 256 << 20  # of files in memory at once while they are sent or checked, over all shards of the process
PUT_ROUNDS = 5  # a round is lost to another attempt that writes the same file at the same moment
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A finished file in the spill folder: where it is, its description on the store, and the claims in its footer."""

    local: Path
    output: OutputFile
    footer: Mapping[str, str]


def stage(store: Store, path: str, fingerprint: str, receipt: Receipt) -> None:
    """Announce what is about to be put. Raises: UsageError, TransientError."""
    record = {"fingerprint": fingerprint, "receipt": json.loads(receipt.to_json())}
    store.put(path, json.dumps(record, sort_keys=True).encode())


def adopt(store: Store, run_id: str, shard: Shard, fingerprint: str) -> Receipt | None:
    """The receipt of an earlier attempt that put all its files and died before it could report; None: embed the shard.

    Every file is read and its SHA-256 compared. `fingerprint` is OutputSchema.fingerprint(): a record of other settings is
    not ours. The receipt keeps the earlier attempt's epoch and has `adopted` set.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    path = RunPaths(run_id).staged(shard.number)
    try:
        record = json.loads(store.read(path))
        if record["fingerprint"] != fingerprint:
            return None
        receipt = Receipt.from_json(json.dumps(record["receipt"]).encode())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: not a staged record (%s); the shard is embedded again", store.uri_of(path), error)
        return None
    if receipt.shard != shard.number:
        return None
    files = [*receipt.files, *([receipt.quarantine] if receipt.quarantine else [])]
    intact = in_parallel(lambda file: _is_intact(store, file), files, [file.bytes for file in files])
    return replace(receipt, adopted=True) if all(intact) else None


def put_or_adopt(store: Store, file: LocalFile) -> OutputFile:
    """Put one file; returns the description of what is at its path afterwards.

    Nothing there: ours is put. A file with the same claims, of any epoch: adopted as it is. Other rows of an earlier epoch:
    deleted and replaced. Anything else stays, and the attempt fails.

    Raises:
        PartConflict: a file of a later attempt, or an unknown one, is there. UsageError, TransientError.
    """
    path, epoch = file.output.path, int(file.footer[PREFIX + "epoch"])
    for _ in range(PUT_ROUNDS):
        if store.put_file_if_absent(path, file.local):
            return file.output
        try:
            there = store.read(path)
        except FileNotFoundError:
            continue  # another attempt has just removed it
        footer = read_footer(there)
        if _claims(footer) == _claims(file.footer):
            return replace(file.output, bytes=len(there), sha256=hashlib.sha256(there).hexdigest())
        theirs = footer.get(PREFIX + "epoch", "")
        if not theirs.isdecimal():
            raise PartConflict(
                f"{store.uri_of(path)}: not a part file of this run; remove it and run the same command again"
            )
        if int(theirs) >= epoch:
            raise PartConflict(
                f"{store.uri_of(path)}: written by attempt epoch {theirs}, this one is {epoch} and may not replace it"
            )
        store.delete(path)
    raise PartConflict(f"{store.uri_of(path)}: other attempts keep writing it; gave up after {PUT_ROUNDS} rounds")


def put_shard(
    store: Store,
    staged: str,
    fingerprint: str,
    files: Sequence[LocalFile],
    receipt_of: Callable[[Sequence[OutputFile]], Receipt],
) -> Receipt:
    """Stage, then put or adopt every file. Afterwards the store holds exactly the files that the returned receipt lists.

    `receipt_of` may be called twice: the second list differs only in size and SHA-256, where files were adopted.

    Raises: as put_or_adopt.
    """
    made = [file.output for file in files]
    receipt = receipt_of(made)
    stage(store, staged, fingerprint, receipt)
    standing = in_parallel(lambda file: put_or_adopt(store, file), files, [file.bytes for file in made])
    if standing == made:
        return receipt
    receipt = receipt_of(standing)
    stage(store, staged, fingerprint, receipt)  # files were adopted: the staged record must say so too
    return receipt


def described(local: Path, path: str, rows: int, digest: str, footer: Mapping[str, str]) -> LocalFile:
    """A finished file, with its size and SHA-256. `digest`: of its rows. Raises: TransientError: the local disk."""
    with local_disk(local), local.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        output = OutputFile(path, rows, local.stat().st_size, sha256, digest)
    return LocalFile(local, output, footer)


class InFlight:
    """Bytes that the threads of this process hold in memory. One file is always let in, however large it is."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Waits until so many more bytes may be held."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


_in_flight = InFlight(IN_FLIGHT_BYTES)


def in_parallel(call: Callable[[_T], _R], items: Sequence[_T], sizes: Sequence[int]) -> list[_R]:
    """call(item) for every item on threads, results in order. All calls of the process together hold IN_FLIGHT_BYTES.

    The first error is raised; calls not yet begun are dropped.
    """

    def within_limit(item: _T, size: int) -> _R:
        with _in_flight.room(size):
            return call(item)

    pool = ThreadPoolExecutor(max(1, min(PUT_THREADS, len(items))), thread_name_prefix="commit")
    try:
        return list(pool.map(within_limit, items, sizes))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _claims(footer: Mapping[str, str]) -> dict[str, str]:
    """What must agree for two files to hold the same rows of the same run."""
    return {key: value for key, value in footer.items() if key.startswith(PREFIX) and key not in OF_THE_ATTEMPT}


def _is_intact(store: Store, file: OutputFile) -> bool:
    try:
        data = store.read(file.path)
    except FileNotFoundError:
        return False
    return len(data) == file.bytes and hashlib.sha256(data).hexdigest() == file.sha256

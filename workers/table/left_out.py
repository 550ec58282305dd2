"""Rows that a dedup output says not to keep (`corpus.exclude`): read like all others, counted, and not embedded.

    keys_of      (id, text hash) of rows -> keys of 128 bits
    LeftOut      the keys of rows to leave out: looked up by bisection, 16 bytes a row
    load_left_out, without

A row is known by its id and its text: one whose text has changed since stays, because nobody knows what it is near to. The
list is made by the driver (jobs/planning/exclusion.py) and lies in the run's folder, so that every attempt reads the same.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.errors import UsageError
from workers.records.digests import hash_texts
from workers.records.documents import ID, TEXT, DocumentWindow, Exclusion
from workers.storage.store import Store

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # an id that equals its text must not cancel it
Keys = NDArray[Any]


def keys_of(ids: pa.Array, hashes: NDArray[np.bytes_]) -> Keys:
    """[N] of rows with these ids (strings or integers) and these text hashes (16 bytes each)."""
    of_ids = np.ascontiguousarray(hash_texts(ids.cast(pa.string()).cast(pa.large_string()))).view("<u8").reshape(-1, 2)
    of_texts = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2)
    found = np.empty(len(ids), KEY)
    with np.errstate(over="ignore"):
        mixed = of_ids * _FACTOR + of_texts
    found["high"], found["low"] = mixed[:, 0], mixed[:, 1]
    return found


class LeftOut:
    """A set of keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = np.unique(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """[N] whether each key is in the set."""
        known = self._keys["high"]
        at, stop = np.searchsorted(known, keys["high"]), np.searchsorted(known, keys["high"], side="right")
        found = np.zeros(len(keys), bool)
        while (inside := at < stop).any():  # once, but for keys of equal upper halves
            found[inside] |= self._keys["low"][at[inside]] == keys["low"][inside]
            at = at + 1
        return found

    def minus(self, keys: Keys) -> LeftOut:
        """Without these."""
        return LeftOut(np.setdiff1d(self._keys, keys[self.contains(keys)]))

    def to_bytes(self) -> bytes:
        return self._keys.tobytes()


def load_left_out(store: Store, path: str, exclusion: Exclusion | None) -> LeftOut | None:
    """The list of a run; None: it leaves nothing out. Kept in memory for the shards that follow.

    Raises:
        UsageError: it is gone or damaged. TransientError: the store failed.
    """
    return None if exclusion is None else _load(store, path, exclusion.sha256)


@functools.lru_cache(maxsize=1)
def _load(store: Store, path: str, sha256: str) -> LeftOut:
    mend = "delete the run's folder and start the run anew"
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise UsageError(f"{store.uri_of(path)}: the list of rows to leave out is gone; {mend}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(f"{store.uri_of(path)}: the list of rows to leave out was altered; {mend}")
    return LeftOut(np.frombuffer(data, KEY))


def without(windows: Iterator[DocumentWindow], left_out: LeftOut | None) -> Iterator[DocumentWindow]:
    """The windows without the rows to leave out, which they count (`excluded_rows`)."""
    for window in windows:
        yield window if left_out is None else _without(window, left_out)


def _without(window: DocumentWindow, left_out: LeftOut) -> DocumentWindow:
    table = window.table
    keys = keys_of(_whole(table[ID]), hash_texts(_whole(table[TEXT])))
    out = left_out.contains(keys)
    if not out.any():
        return window
    return replace(window, table=table.filter(pa.array(~out)).combine_chunks(), excluded_rows=int(out.sum()))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

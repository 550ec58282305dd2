"""`corpus.exclude`: the published output of `reembed dedup`, pinned for a run.

    DedupOutput.open    the URI's published run, when a command begins; it is part of the settings' fingerprint
    DedupOutput.rows    the rows that it says not to keep, as a list for the run's folder

A row is left out if a row with its id and its text is not kept, and none with both is. So of rows that are equal in both
nothing is left out: the list cannot tell which of them is the one to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from jobs.config import RunConfig
from jobs.state.current import read_current
from jobs.state.records import read_summary
from jobs.state.stored_run import StoredRun
from workers.errors import ObjectError, UsageError
from workers.records.documents import TEXT_HASH_BYTES, Exclusion
from workers.storage.store import Store
from workers.storage.uris import redact
from workers.table.left_out import KEY, Keys, LeftOut, keys_of
from workers.table.part_file import open_part
from workers.table.schema import CHUNK, ID, TEXT_HASH

KEEP = "keep"  # the column of a dedup output
READ_ROWS = 1 << 16
THREADS = 4


@dataclass(frozen=True)
class DedupOutput:
    """A published run of `reembed dedup`."""

    run: StoredRun
    uri: str  # without credentials

    @classmethod
    def open(cls, config: RunConfig) -> DedupOutput | None:
        """None: nothing is excluded. It is read with output.storage_options: derived outputs lie where outputs are.

        Raises: UsageError: nothing is published there, or it is of another job.
        """
        if config.corpus.exclude is None:
            return None
        store = Store(config.corpus.exclude, config.output.storage_options)
        setting = f"corpus.exclude={redact(config.corpus.exclude)}"
        current = read_current(store)
        run = StoredRun.open(store, current.run_id) if current else None
        if run is None:
            raise UsageError(f"{setting}: nothing is published there; run `reembed dedup` first, or correct the uri")
        if run.job != "dedup":
            raise UsageError(
                f"{setting}: the output of `reembed {run.job or 'embed'}`; give that of a `reembed dedup` over a snapshot"
            )
        return cls(run, redact(store.uri))

    @cached_property
    def pinned(self) -> Exclusion:
        """As run.json has it; the list is made for it."""
        return Exclusion(self.uri, self.run.run_id, len(self.rows), hashlib.sha256(self.rows.to_bytes()).hexdigest())

    @property
    def _setting(self) -> str:
        return f"corpus.exclude={self.uri}"

    @property
    def kept_share(self) -> float:
        """Of its rows, by its summary: for estimates. 1 if that is not known."""
        summary = read_summary(self.run.store, self.run.run_id) or {}
        rows, kept = summary.get("rows"), summary.get("kept")
        return kept / rows if rows and kept is not None else 1.0

    @cached_property
    def rows(self) -> LeftOut:
        """Memory: 16 bytes a row that is not kept; the columns are read twice, part by part.

        Raises: UsageError: it is of chunks, or a part is gone or damaged. TransientError.
        """
        paths = [file.path for receipt in self.run.receipts.values() for file in receipt.files]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="exclude") as pool:
            not_kept = _joined(pool.map(lambda path: self._keys(path, lambda keep: ~keep), paths))
            listed = LeftOut(not_kept)

            def kept_too(path: str) -> Keys:
                keys = self._keys(path, lambda keep: keep)
                return keys[listed.contains(keys)]

            return listed.minus(_joined(pool.map(kept_too, paths)))

    def _keys(self, path: str, chosen: Callable[[Keys], Keys]) -> Keys:
        found = []
        try:
            with open_part(self.run.store, path) as part:
                if CHUNK in part.schema.names:
                    raise UsageError(
                        f"{self._setting}: it speaks of chunks, and documents are excluded; run dedup over a snapshot of "
                        "whole documents (model.long_text: truncate or mean_of_chunks)"
                    )
                for batch in part.batches(READ_ROWS, [ID, TEXT_HASH, KEEP]):
                    rows = np.flatnonzero(chosen(batch.column(KEEP).to_numpy(zero_copy_only=False)))
                    ids, hashes = (batch.column(at).take(pa.array(rows)) for at in (0, 1))
                    cells = np.array(hashes.to_pylist(), f"S{TEXT_HASH_BYTES}")
                    found.append(keys_of(ids, cells))
        except (FileNotFoundError, ObjectError) as error:
            raise UsageError(f"{self._setting}: {error}; run `reembed dedup` again") from None
        return _joined(found)


def _joined(keys: Iterable[Keys]) -> Keys:
    return np.concatenate([np.empty(0, KEY), *keys])

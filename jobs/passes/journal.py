"""The journal of a run on storage: what each pass answered, one object a pass. Resume begins after the last of them.

runs/<run_id>/passes/<place>-<name>.npz    arrays, and the digest of the step that they answer
runs/<run_id>/state.npz                    what the next night's run is given; stays when the journal is deleted
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workers.storage.store import Store
from workers.table.paths import RunPaths
from workers.vectors.arrays import load_arrays, save_arrays
from workers.vectors.step import Partial

_DIGEST = "reembed_step"  # among the arrays; no step names one of its own like that


class StoredJournal:
    """A Journal (passes.py). `guard` raises if this driver may not write any more."""

    def __init__(self, store: Store, run_id: str, guard: Callable[[], None]) -> None:
        self._store, self._guard = store, guard
        self._folder = RunPaths(run_id).passes

    def read(self, place: int, name: str, digest: str) -> Partial | None:
        found = load_arrays(self._store, self._path(place, name))
        if found is None or found.pop(_DIGEST, np.array("")).item() != digest:
            return None
        return found

    def write(self, place: int, name: str, digest: str, value: Partial) -> None:
        """Replaces what another step left there. Raises: RunAborted, UsageError, TransientError."""
        self._guard()
        save_arrays(self._store, self._path(place, name), value | {_DIGEST: np.array(digest)})

    def delete(self) -> None:
        """Once the run is published. Raises: UsageError, TransientError."""
        self._store.delete_many(list(self._store.list(self._folder)))

    def _path(self, place: int, name: str) -> str:
        return f"{self._folder}/{place:05d}-{name.strip('_')}.npz"

"""Named arrays as one object on a store, without pickles: the state of a derived run, the answers of its passes."""

from __future__ import annotations

import io

import numpy as np

from workers.errors import RunAborted, one_line
from workers.storage.store import Store
from workers.vectors.step import Partial


def save_arrays(store: Store, path: str, arrays: Partial) -> None:
    """Raises: UsageError, TransientError."""
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)
    store.put(path, sink.getvalue())


def load_arrays(store: Store, path: str) -> Partial | None:
    """None if there is no such object. Raises: RunAborted: it is damaged. UsageError, TransientError."""
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        told = one_line(error)
        raise RunAborted(f"{store.uri_of(path)}: damaged ({told}); delete it, and run the same command again") from None

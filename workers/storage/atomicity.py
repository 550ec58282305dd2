"""Whether a store creates objects atomically, tested by racing writers against it.

Some S3 servers accept `If-None-Match: *` and ignore it. Several writers then create one object, and each is told that it
was the only one.
"""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from workers.errors import UsageError
from workers.storage.store import Store

_RACERS, _RACES = 8, 3  # a store that only seems atomic lets most races have several winners
_log = logging.getLogger("reembed")


def probe_atomic_create(store: Store, folder: str) -> bool:
    """Let writers race for new objects in `folder`; in each race exactly one may win.

    Sets `store.atomic_create`, logs a warning where it becomes False, and returns it. A role that may not delete could not
    remove the objects raced for: nothing is written then, and the store is taken for one that does not create atomically.

    Raises:
        UsageError, TransientError: the store refused or did not answer.
    """
    if not store.atomic_create:
        return False
    try:
        store.delete(f"{folder}/{uuid.uuid4().hex}")  # of nothing: the permission is checked first
    except UsageError as error:
        store.atomic_create = False
        _log.warning(
            "%s: this role may not delete, so old locks, parts and snapshots stay, and the lock settles and reads back; "
            "give it DeleteObject (s3:DeleteObject): %s",
            store.uri,
            error,
        )
        return False
    left = store.list(folder)  # by a driver that was killed, or whose credentials expired, before it deleted its object
    for _ in range(_RACES):
        winners = _race(store, folder)
        if winners != 1 or not store.atomic_create:
            store.atomic_create = False
            _log.warning(
                "%s: conditional put is not atomic here (%d of %d racers won); the lock settles and reads back instead",
                store.uri,
                winners,
                _RACERS,
            )
            break
    # One of these may belong to a driver that races at this moment. It may then see a second winner, take the store for not
    # atomic, and use the lock's slower procedure: correct all the same.
    store.discard(left)
    return store.atomic_create


def _race(store: Store, folder: str) -> int:
    """How many of the racers got the answer that they created the object."""
    path = f"{folder}/{uuid.uuid4().hex}"
    start = threading.Barrier(_RACERS)

    def run(racer: int) -> bool:
        start.wait(timeout=60)
        return store.put_if_absent(path, f"racer {racer}".encode())

    try:
        with ThreadPoolExecutor(_RACERS) as pool:
            return sum(pool.map(run, range(_RACERS)))
    finally:
        store.delete(path)

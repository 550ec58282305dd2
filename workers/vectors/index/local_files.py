"""Index files on this machine's disk, whose contents have been compared with their digest.

    local_copy    the file itself where the output is a local folder, else a copy in the node's cache, named for its digest

usearch maps a file and trusts what is in it, so an altered file could end the process. A file of the output is read whole
once; then its size and time of change are remembered, in the cache. Copies that nobody used for two weeks are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from workers.errors import ObjectError
from workers.model.fetch import cache_folder
from workers.storage.store import Store

UNUSED_SECONDS = 14 * 86400
_BLOCK = 8 << 20


def local_copy(store: Store, path: str, size: int, sha256: str) -> Path:
    """The file, to be mapped.

    Raises:
        FileNotFoundError: it is gone. ObjectError: altered after it was written. TransientError, UsageError: the store.
        OSError: the cache cannot be written.
    """
    own = store.local_path(path)
    if own is not None:
        _compare_once(own, store.uri_of(path), size, sha256)
        return own
    folder = cache_folder() / "index"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{sha256}.usearch"
    if not (copy.is_file() and copy.stat().st_size == size):
        _fetch(store, path, copy, sha256)
    os.utime(copy)
    _remove_unused(folder)
    return copy


def _fetch(store: Store, path: str, copy: Path, sha256: str) -> None:
    part, sums = copy.with_name(f"{copy.name}.{os.getpid()}"), hashlib.sha256()
    try:
        with store.open(path) as stream, part.open("wb") as target:
            for block in _blocks(stream):
                sums.update(block)
                target.write(block)
        if sums.hexdigest() != sha256:
            raise _altered(store.uri_of(path))
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _compare_once(own: Path, uri: str, size: int, sha256: str) -> None:
    found = own.stat()
    if found.st_size != size:
        raise _altered(uri)
    facts = f"{own} {found.st_size} {found.st_mtime_ns} {found.st_ino} {sha256}"
    mark = cache_folder() / "index" / f"{hashlib.sha256(facts.encode()).hexdigest()}.compared"
    if mark.exists():
        return
    with own.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise _altered(uri)
    with contextlib.suppress(OSError):  # without a cache it is compared again the next time
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        _remove_unused(mark.parent)


def _remove_unused(folder: Path) -> None:
    before = time.time() - UNUSED_SECONDS
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another search has removed it
            if file.stat().st_mtime < before:
                file.unlink()


def _blocks(stream: object) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):  # type: ignore[attr-defined]
        yield block


def _altered(uri: str) -> ObjectError:
    return ObjectError(uri, "altered after it was written (its size or SHA-256 differs from the catalog's)")

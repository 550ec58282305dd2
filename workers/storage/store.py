"""The output store: one root, and files below it.

    put             atomic: a reader sees the old object or the new one, never a part of it
    put_if_absent   atomic create: of racing writers exactly one gets True (if the store honours If-None-Match)
    delete_many     not atomic: if the process is killed half-way, some files are deleted
    copy            inside the store: server-side on S3, a hard link locally. For that reason no file is changed in place

Knows nothing of runs, parts or locks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from fsspec.implementations.chained import ChainedFileSystem

from workers.errors import ReembedError, StorageFull, UsageError
from workers.storage.checksums import can_check, fetch_checked, fetch_range
from workers.storage.client import READ_BLOCK_BYTES, RETRY_SECONDS, error_code, filesystem, no_object, patiently
from workers.storage.local import copy_local, write_local
from workers.storage.uris import redact

DELETE_BATCH = 1000  # what S3 takes in one DeleteObjects
_NO_BATCHES = ("NotImplemented", "501", "MethodNotAllowed", "405", "InvalidRequest", "MissingContentMD5")
_NOT_ONE_COPY = ("EntityTooLarge", "InvalidRequest", "NotImplemented", "501")  # CopyObject takes 5 GB at most
_log = logging.getLogger("reembed")
_T = TypeVar("_T")


class Store:
    """The output root. Paths are relative, with forward slashes. Every call retries for `retry_seconds`.

    `atomic_create` says whether the store itself decides put_if_absent (see atomicity.py); if not, the driver's lock waits
    and reads back. Object stores and local folders replace atomically; other fsspec schemes do if their `pipe_file` does.
    """

    def __init__(self, uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._retry_seconds = retry_seconds
        self._full = False  # a write found no room for its whole budget: later ones try once, until one succeeds
        self._fs, root = filesystem(uri, options, retry_seconds)
        if isinstance(self._fs, ChainedFileSystem):
            raise UsageError(f"{redact(uri)}: a chain of filesystems can be read, not written to; give the store's own uri")
        self._root = root.rstrip("/")
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self._kind = {"s3": "s3", "s3a": "s3", "file": "local", "local": "local"}.get(protocol, "other")
        self.atomic_create = self._kind in ("s3", "local")
        # a relative folder is made absolute: CURRENT.json is read from other working directories
        self.uri = root.rstrip("/") if "://" not in uri else uri if uri.endswith("://") else uri.rstrip("/")

    def uri_of(self, path: str) -> str:
        return f"{self.uri}{path}" if self.uri.endswith("://") else f"{self.uri}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Where the file is on this machine; None: the store is no local folder."""
        return Path(self._at(path)) if self._kind == "local" else None

    def read(self, path: str) -> bytes:
        """All of a file; on S3 verified by its checksum. Raises: FileNotFoundError, UsageError, TransientError."""
        if self._kind == "s3":
            return self._try(lambda: fetch_checked(self._fs, self._at(path), self.uri_of(path)).data, path)
        return self._try(lambda: cast("bytes", self._fs.cat_file(self._at(path))), path)

    def open(self, path: str, *, block: int = READ_BLOCK_BYTES) -> IO[bytes]:
        """A readable, seekable stream that reads `block` bytes ahead. A small file on S3 is fetched whole and verified.

        Raises:
            FileNotFoundError, UsageError, TransientError.
        """

        def attempt() -> IO[bytes]:
            stream = cast("IO[bytes]", self._fs.open(self._at(path), "rb", block_size=block))
            details = getattr(stream, "details", {}) if self._kind == "s3" else {}
            if not can_check(int(details.get("size") or 0), str(details.get("ETag", "")).strip('"')):
                return stream
            stream.close()
            return io.BytesIO(fetch_checked(self._fs, self._at(path), self.uri_of(path)).data)

        return self._try(attempt, path)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """Bytes of a file from `start` on, fewer than `size` where it ends. One request; a range has no checksum.

        Raises: FileNotFoundError, UsageError, TransientError.
        """

        def attempt() -> bytes:
            try:
                return fetch_range(self._fs, self._at(path), self.uri_of(path), start, start + size)
            except OSError as error:
                if error_code(error) == "InvalidRange":  # the file ends before `start`
                    return b""
                raise

        return self._try(attempt, path)

    def exists(self, path: str) -> bool:
        return self._size(path) is not None

    def list(self, prefix: str) -> dict[str, int]:
        """Every file below a folder: path relative to the root -> size in bytes. Empty if there is none."""

        def find() -> dict[str, int]:
            entries = self._present(lambda: self._fs.find(self._at(prefix), detail=True)) or {}
            skip = len(self._root) + 1
            files = {name[skip:]: info["size"] for name, info in entries.items() if info["type"] == "file"}
            return {name: int(size) for name, size in files.items() if name and not name.endswith("/")}

        return self._try(find, prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below a folder, sorted. Costs one listing of that level."""

        def list_level() -> tuple[str, ...]:
            entries = self._present(lambda: self._fs.ls(self._at(prefix), detail=True)) or []
            names = {info["name"].rstrip("/").rpartition("/")[2] for info in entries if info["type"] == "directory"}
            return tuple(sorted(names))

        return self._try(list_level, prefix)

    def put(self, path: str, data: bytes) -> None:
        """Create or replace a file, atomically. Raises: UsageError, TransientError."""
        self._try_write(lambda: self._write(path, data, create=False), path)

    def put_file_if_absent(self, path: str, local: Path) -> bool:
        """As put_if_absent, with the contents of a local file, which is not empty.

        A local folder takes them from the file's mapping: in memory they would cost as much again as the copy. Other stores
        need them in memory.

        Raises:
            UsageError, TransientError (StorageFull: no room is left). OSError: the local file cannot be read.
        """
        if self._kind != "local":
            return self.put_if_absent(path, local.read_bytes())
        with local.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return self.put_if_absent(path, mapped)

    def put_if_absent(self, path: str, data: bytes | mmap.mmap) -> bool:
        """Create a file. True if it holds exactly `data` afterwards, so also if the answer to our own write was lost.

        Raises:
            UsageError, TransientError (StorageFull: no room is left).
        """
        taken = not self.atomic_create and self.exists(path)  # not atomic, but the best such a store allows
        if not taken and self._try_write(lambda: self._write(path, data, create=True), path):
            return True
        try:
            return self._size(path) == len(data) and memoryview(data) == self.read(path)
        except FileNotFoundError:  # deleted in the meantime
            return False

    def copy(self, source: str, target: str) -> None:
        """Make `target` hold what `source` holds, atomically, replacing what was there. Idempotent.

        Object stores copy on their side. Locally both names share one file if the file system supports hard links. That is
        safe because files are only replaced, never modified, and deleting one name keeps the other.

        Raises:
            FileNotFoundError: no such source. UsageError, TransientError.
        """

        def attempt() -> None:
            self._fs.invalidate_cache()
            if self._kind == "local":
                copy_local(Path(self._at(source)), Path(self._at(target)))
            elif self._kind == "s3":
                self._copy_s3(source, target)
            else:
                self._fs.cp_file(self._at(source), self._at(target))

        self._try_write(attempt, source)

    def delete(self, path: str) -> None:
        """Delete a file; no error if it does not exist. Raises: UsageError, TransientError."""
        self._try(lambda: self._present(lambda: self._fs.rm_file(self._at(path))), path)

    def delete_many(self, paths: Sequence[str]) -> None:
        """Delete up to DELETE_BATCH files, on S3 by one request; no error for those that do not exist."""
        left = self._try(lambda: self._delete_s3(paths), paths[0]) if self._kind == "s3" and paths else paths
        for path in left:
            self.delete(path)

    def discard(self, paths: Iterable[str]) -> None:
        """Delete what an earlier driver left behind. Failures are logged, not raised: the next driver tries again.

        After a refusal the rest is left as it is: a role that may not delete one of them may not delete the others.
        """
        for path in paths:
            try:
                self.delete(path)
            except ReembedError as error:
                _log.warning("%s: left by an earlier driver, not deleted: %s", self.uri_of(path), error)
                if isinstance(error, UsageError):
                    return

    def prune(self, prefix: str) -> None:
        """Remove a local folder that has become empty, and such folders below it. Other stores have no folders."""
        if self._kind == "local":
            for folder, _, _ in os.walk(self._at(prefix), topdown=False):
                with contextlib.suppress(OSError):  # not empty, or already removed by another process
                    os.rmdir(folder)  # noqa: PTH106 - os.walk's names are text

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _try(self, call: Callable[[], _T], path: str) -> _T:
        return patiently(call, self.uri_of(path), self._retry_seconds)

    def _try_write(self, call: Callable[[], _T], path: str) -> _T:
        try:
            result = patiently(call, self.uri_of(path), 0.0 if self._full else self._retry_seconds)
        except StorageFull:
            self._full = True
            raise
        self._full = False
        return result

    def _present(self, call: Callable[[], _T]) -> _T | None:
        """The result of `call`, or None if the file does not exist. A missing bucket is an error."""
        self._fs.invalidate_cache()
        try:
            return call()
        except FileNotFoundError as error:
            if not no_object(error):
                raise
            return None

    def _size(self, path: str) -> int | None:
        def stat() -> int | None:
            info = self._present(lambda: self._fs.info(self._at(path)))
            return None if info is None else int(info["size"] or 0)

        return self._try(stat, path)

    def _write(self, path: str, data: bytes | mmap.mmap, *, create: bool) -> bool:
        if self._kind == "local":
            return write_local(Path(self._at(path)), data, create=create)
        data = bytes(data)  # a copy only of what is mapped
        if self._kind == "s3":
            return self._write_s3(path, data, create=create)
        try:
            self._fs.pipe_file(self._at(path), data, mode="create" if create else "overwrite")
        except FileExistsError:
            return False
        return True

    def _write_s3(self, path: str, data: bytes, *, create: bool) -> bool:
        """One PutObject. Not a multipart upload: not every server makes its completion conditional."""
        bucket, key, _ = self._fs.split_path(self._at(path))
        condition = {"IfNoneMatch": "*"} if create and self.atomic_create else {}
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except Exception as error:  # translated by the caller, except for the codes handled here
            if error_code(error) in ("PreconditionFailed", "412"):
                return False
            if condition and error_code(error) in ("NotImplemented", "501"):
                self.atomic_create = False
                return not self.exists(path) and self._write_s3(path, data, create=create)
            raise
        return True

    def _delete_s3(self, paths: Sequence[str]) -> Sequence[str]:
        """The paths that one DeleteObjects request did not delete: all, if the server does not support it."""
        parts = [self._fs.split_path(self._at(path)) for path in paths]
        listed = {"Objects": [{"Key": key} for _, key, _ in parts], "Quiet": True}
        try:
            answer = self._fs.call_s3("delete_objects", Bucket=parts[0][0], Delete=listed)
        except Exception as error:  # translated by the caller, except for the codes handled here
            if error_code(error) in _NO_BATCHES:
                return paths
            raise
        failed = {item["Key"] for item in answer.get("Errors", ())}
        return [path for path, (_, key, _) in zip(paths, parts, strict=True) if key in failed]

    def _copy_s3(self, source: str, target: str) -> None:
        """One CopyObject; larger objects are copied in parts, also server-side."""
        bucket, key, _ = self._fs.split_path(self._at(source))
        to_bucket, to_key, _ = self._fs.split_path(self._at(target))
        try:
            self._fs.call_s3("copy_object", Bucket=to_bucket, Key=to_key, CopySource={"Bucket": bucket, "Key": key})
        except Exception as error:  # translated by the caller, except for the codes handled here
            if error_code(error) not in _NOT_ONE_COPY:
                raise
            self._fs.cp_file(self._at(source), self._at(target))

"""The output side of storage: a Store is one root, and paths below it.

    put             atomic: a reader sees the old object, or the new one, never a part of it
    put_if_absent   atomic create: of racing writers exactly one gets True (where the store honours If-None-Match)
    delete_many     not atomic: killed half-way, some are gone
    copy            bytes move inside the store: server-side on S3, a hard link locally; so no file is ever changed in place

Knows nothing of runs, parts or locks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from workers.errors import ReembedError
from workers.storage.checksums import can_check, fetch_checked
from workers.storage.client import READ_BLOCK_BYTES, RETRY_SECONDS, error_code, filesystem, no_bucket, patiently
from workers.storage.local import copy_local, write_local

DELETE_BATCH = 1000  # what S3 takes in one DeleteObjects
_NO_BATCHES = ("NotImplemented", "501", "MethodNotAllowed", "405", "InvalidRequest", "MissingContentMD5")
_NOT_ONE_COPY = ("EntityTooLarge", "InvalidRequest", "NotImplemented", "501")  # CopyObject takes 5 GB at most
_log = logging.getLogger("reembed")
_T = TypeVar("_T")


class Store:
    """The output root. Paths are relative, with forward slashes. Every call retries for `retry_seconds`.

    `atomic_create` says whether put_if_absent is decided by the store itself; where it is not, callers settle and read back.
    Object stores and local folders replace atomically; other fsspec schemes as well as their `pipe_file` does.
    """

    def __init__(self, uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._retry_seconds = retry_seconds
        self._fs, root = filesystem(uri, options, retry_seconds)
        self._root = root.rstrip("/")
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self._kind = {"s3": "s3", "s3a": "s3", "file": "local", "local": "local"}.get(protocol, "other")
        self.atomic_create = self._kind in ("s3", "local")
        # a relative folder is spelled out: CURRENT.json is read from other working directories
        self.uri = root.rstrip("/") if "://" not in uri else uri if uri.endswith("://") else uri.rstrip("/")

    def uri_of(self, path: str) -> str:
        return f"{self.uri}{path}" if self.uri.endswith("://") else f"{self.uri}/{path}"

    def read(self, path: str) -> bytes:
        """All of a file; on S3 compared with its checksum. Raises: FileNotFoundError, UsageError, TransientError."""
        if self._kind == "s3":
            return self._try(lambda: fetch_checked(self._fs, self._at(path), self.uri_of(path)).data, path)
        return self._try(lambda: cast("bytes", self._fs.cat_file(self._at(path))), path)

    def open(self, path: str, *, block: int = READ_BLOCK_BYTES) -> IO[bytes]:
        """`block`: bytes read ahead; a small file on S3 is fetched whole and compared with its checksum.

        Raises:
            FileNotFoundError, UsageError, TransientError.
        """

        def look() -> IO[bytes]:
            stream = cast("IO[bytes]", self._fs.open(self._at(path), "rb", block_size=block))
            details = getattr(stream, "details", {}) if self._kind == "s3" else {}
            if not can_check(int(details.get("size") or 0), str(details.get("ETag", "")).strip('"')):
                return stream
            stream.close()
            return io.BytesIO(fetch_checked(self._fs, self._at(path), self.uri_of(path)).data)

        return self._try(look, path)

    def exists(self, path: str) -> bool:
        return self._size(path) is not None

    def list(self, prefix: str) -> dict[str, int]:
        """Every file below a folder: path relative to the root -> bytes. Empty when nothing is there."""

        def look() -> dict[str, int]:
            found = self._present(lambda: self._fs.find(self._at(prefix), detail=True)) or {}
            skip = len(self._root) + 1
            files = {name[skip:]: info["size"] for name, info in found.items() if info["type"] == "file"}
            return {name: int(size) for name, size in files.items() if name and not name.endswith("/")}

        return self._try(look, prefix)

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below a folder, sorted; costs one listing of that level only."""

        def look() -> tuple[str, ...]:
            found = self._present(lambda: self._fs.ls(self._at(prefix), detail=True)) or []
            names = {info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"}
            return tuple(sorted(names))

        return self._try(look, prefix)

    def put(self, path: str, data: bytes) -> None:
        """Write or replace, atomically."""
        self._try(lambda: self._write(path, data, create=False), path)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create; True when the object holds exactly `data` afterwards (a lost acknowledgement of our own write counts)."""
        taken = not self.atomic_create and self.exists(path)  # the best that can be done there
        if not taken and self._try(lambda: self._write(path, data, create=True), path):
            return True
        try:
            return self._size(path) == len(data) and self.read(path) == data
        except FileNotFoundError:  # deleted since
            return False

    def copy(self, source: str, target: str) -> None:
        """Make `target` hold what `source` holds, atomically, replacing what was there; repeated, it changes nothing.

        Object stores copy on their side. Locally the two names share one file where the file system allows that: safe as
        long as files are replaced, never written into, and deleting one name keeps the other.

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

        self._try(attempt, source)

    def delete(self, path: str) -> None:
        """Remove; a file that is not there is fine."""
        self._try(lambda: self._present(lambda: self._fs.rm_file(self._at(path))), path)

    def delete_many(self, paths: Sequence[str]) -> None:
        """Remove up to DELETE_BATCH files, on S3 by one request; those that are not there are fine."""
        left = self._try(lambda: self._delete_s3(paths), paths[0]) if self._kind == "s3" and paths else paths
        for path in left:
            self.delete(path)

    def discard(self, paths: Iterable[str]) -> None:
        """Delete what an earlier driver left behind. A failure is logged and not raised: the next driver tries again."""
        for path in paths:
            try:
                self.delete(path)
            except ReembedError as error:
                _log.warning("%s: left by an earlier driver, not deleted: %s", self.uri_of(path), error)

    def prune(self, prefix: str) -> None:
        """Remove a local folder that holds no file any more, and such folders below it; elsewhere folders are only names."""
        if self._kind == "local":
            for folder, _, _ in os.walk(self._at(prefix), topdown=False):
                with contextlib.suppress(OSError):  # not empty, or somebody else was quicker
                    os.rmdir(folder)  # noqa: PTH106 - os.walk's names are text

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _try(self, call: Callable[[], _T], path: str) -> _T:
        return patiently(call, self.uri_of(path), self._retry_seconds)

    def _present(self, call: Callable[[], _T]) -> _T | None:
        """None for what is not there; a missing bucket is not taken for a missing file."""
        self._fs.invalidate_cache()
        try:
            return call()
        except FileNotFoundError as error:
            if no_bucket(error):
                raise
            return None

    def _size(self, path: str) -> int | None:
        def look() -> int | None:
            info = self._present(lambda: self._fs.info(self._at(path)))
            return None if info is None else int(info["size"] or 0)

        return self._try(look, path)

    def _write(self, path: str, data: bytes, *, create: bool) -> bool:
        if self._kind == "local":
            return write_local(Path(self._at(path)), data, create=create)
        if self._kind == "s3":
            return self._write_s3(path, data, create=create)
        try:
            self._fs.pipe_file(self._at(path), data, mode="create" if create else "overwrite")
        except FileExistsError:
            return False
        return True

    def _write_s3(self, path: str, data: bytes, *, create: bool) -> bool:
        """One PutObject: never a multipart upload, whose completion not every server makes conditional."""
        bucket, key, _ = self._fs.split_path(self._at(path))
        condition = {"IfNoneMatch": "*"} if create and self.atomic_create else {}
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except Exception as error:  # translated by the caller unless it is the answer
            if error_code(error) in ("PreconditionFailed", "412"):
                return False
            if condition and error_code(error) in ("NotImplemented", "501"):
                self.atomic_create = False
                return not self.exists(path) and self._write_s3(path, data, create=create)
            raise
        return True

    def _delete_s3(self, paths: Sequence[str]) -> Sequence[str]:
        """What one request did not remove, to be tried one by one: all, where the server does not know the request."""
        parts = [self._fs.split_path(self._at(path)) for path in paths]
        listed = {"Objects": [{"Key": key} for _, key, _ in parts], "Quiet": True}
        try:
            answer = self._fs.call_s3("delete_objects", Bucket=parts[0][0], Delete=listed)
        except Exception as error:  # translated by the caller unless it is the answer
            if error_code(error) in _NO_BATCHES:
                return paths
            raise
        failed = {item["Key"] for item in answer.get("Errors", ())}
        return [path for path, (_, key, _) in zip(paths, parts, strict=True) if key in failed]

    def _copy_s3(self, source: str, target: str) -> None:
        """One CopyObject; in parts, server-side as well, what that does not take."""
        bucket, key, _ = self._fs.split_path(self._at(source))
        to_bucket, to_key, _ = self._fs.split_path(self._at(target))
        try:
            self._fs.call_s3("copy_object", Bucket=to_bucket, Key=to_key, CopySource={"Bucket": bucket, "Key": key})
        except Exception as error:  # translated by the caller unless it is about the size
            if error_code(error) not in _NOT_ONE_COPY:
                raise
            self._fs.cp_file(self._at(source), self._at(target))

"""The one door to bytes: any fsspec scheme, S3 through s3fs, local folders.

    stat_object / list_objects / open_object     source side: full URIs, pinned to a size and etag
    Store                                        output side: paths relative to one root
    put             atomic: a reader sees the old object, or the new one, never a part of it
    put_if_absent   atomic create: of racing writers exactly one gets True (where the store honours If-None-Match)

Failures come out as three kinds: FileNotFoundError, UsageError (credentials, unknown bucket), TransientError (all else),
the last only after retries with back-off. This file knows nothing of documents, shards or Parquet.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import tenacity
from fsspec.core import url_to_fs

from workers.errors import ObjectChanged, ObjectMissing, TransientError, UsageError

RETRY_SECONDS = 60.0  # a store that stays away longer fails the attempt; the scheduler decides what follows
READ_BLOCK_BYTES = 8 << 20  # one range request while streaming an object
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "InvalidToken", "ExpiredToken",
           "NoCredentials", "Unable to locate credentials", "RequestTimeTooSkewed", "UserSuspended")  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A source object as listed: full URI, bytes, and a tag that changes when the content does."""

    uri: str
    size: int
    etag: str


def redact(uri: str) -> str:
    """The URI without user, password and query: safe for logs and errors."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme in ("s3", "s3a", "gs", "gcs", "file", "local", "memory"):  # `@` and `?` are plain key characters
        return uri
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def object_key(uri: str) -> str:
    """What a document without an id is named by: the key within its bucket; the path of a local file."""
    scheme, separator, rest = uri.partition("://")
    return rest if separator and scheme in ("file", "local") else rest.partition("/")[2] if separator else uri


def filesystem(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path within it.

    Raises:
        UsageError: unknown scheme, or options its filesystem does not take.
    """
    settings = dict(options)
    if uri.startswith(("s3://", "s3a://")):
        client = dict(settings.pop("client_kwargs", {}))
        config = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}
        endpoint = settings.get("endpoint_url") or client.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:  # servers other than AWS often lack the trailing checksums that SDKs send since 2025
            config |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        settings["config_kwargs"] = config | dict(settings.pop("config_kwargs", {}))
        settings |= {"use_listings_cache": False, "client_kwargs": client}
    try:
        fs, path = url_to_fs(uri, **settings)
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"{redact(uri)}: cannot be opened: {error}; check the scheme and storage_options") from None
    return fs, path


def list_objects(uri: str, options: Mapping[str, Any]) -> list[ObjectInfo]:
    """Objects that a URI names: itself, all below a prefix, or what a glob matches; hidden names (. and _) left out.

    Raises:
        FileNotFoundError: nothing is there.
        UsageError: credentials or bucket refused.
    """
    fs, path = filesystem(uri, options)

    def look() -> dict[str, Any]:
        fs.invalidate_cache()
        if any(char in path for char in "*?["):
            return cast("dict[str, Any]", fs.glob(path, detail=True))
        return cast("dict[str, Any]", fs.find(path, detail=True))

    found = _patiently(look, uri)
    root = path.rstrip("/")
    objects = [
        _object_info(fs, details)
        for name, details in sorted(found.items())
        if details["type"] == "file" and not _hidden(name[len(root) :] if name.startswith(root) else name)
    ]
    if not objects:
        raise FileNotFoundError(f"{redact(uri)}: no objects there")
    return objects


def stat_object(uri: str, options: Mapping[str, Any]) -> ObjectInfo:
    """Raises: FileNotFoundError, UsageError, TransientError."""
    fs, path = filesystem(uri, options)

    def look() -> ObjectInfo:
        fs.invalidate_cache()
        return _object_info(fs, fs.info(path))

    return _patiently(look, uri)


def open_object(uri: str, size: int, etag: str, options: Mapping[str, Any], *, block: int = READ_BLOCK_BYTES) -> IO[bytes]:
    """Open a source object for reading, provided that it still is what the manifest recorded.

    Raises:
        ObjectMissing, ObjectChanged: named with the mend. TransientError: the store did not answer.
    """
    try:
        now = stat_object(uri, options)
    except FileNotFoundError:
        raise ObjectMissing(
            redact(uri), "deleted after the run was planned; restore it, or start a new run once this one has ended"
        ) from None
    if (now.size, now.etag) != (size, etag):
        raise ObjectChanged(
            redact(uri),
            f"replaced after the run was planned (size {size} -> {now.size}, etag {etag} -> {now.etag}); "
            "the next run picks up the new version",
        )
    fs, path = filesystem(uri, options)
    return cast("IO[bytes]", _patiently(lambda: fs.open(path, "rb", block_size=block, cache_type="readahead"), uri))


class Store:
    """The output root. Paths are relative, with forward slashes.

    `atomic_create` says whether put_if_absent is decided by the store itself; where it is not, callers settle and read back.
    """

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        self.uri = uri.rstrip("/")
        self._options = dict(options)
        self._fs, root = filesystem(self.uri, options)
        self._root = root.rstrip("/")
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self._kind = {"s3": "s3", "s3a": "s3", "file": "local", "local": "local"}.get(protocol, "other")
        self.atomic_create = self._kind in ("s3", "local")

    def uri_of(self, path: str) -> str:
        return f"{self.uri}/{path}"

    def read(self, path: str) -> bytes:
        """Raises: FileNotFoundError, UsageError, TransientError."""
        return cast("bytes", self._try(lambda: self._fs.cat_file(self._at(path)), path))

    def open(self, path: str) -> IO[bytes]:
        return cast("IO[bytes]", self._try(lambda: self._fs.open(self._at(path), "rb"), path))

    def exists(self, path: str) -> bool:
        def look() -> bool:
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._at(path)))

        return self._try(look, path)

    def list(self, prefix: str) -> dict[str, int]:
        """Every file below a prefix: path relative to the root -> bytes. Empty when nothing is there."""

        def look() -> dict[str, int]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._at(prefix), detail=True)
            except FileNotFoundError:
                return {}
            skip = len(self._root) + 1 if self._root else 0
            return {name[skip:]: info["size"] for name, info in found.items() if info["type"] == "file"}

        return self._try(look, prefix)

    def put(self, path: str, data: bytes) -> None:
        """Write or replace, atomically."""
        if self._kind == "local":
            self._try(lambda: _write_local(Path(self._at(path)), data, create=False), path)
        else:
            self._try(lambda: self._put_remote(path, data, create=False), path)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Create; True when the object holds exactly `data` afterwards (a lost acknowledgement of our own write counts)."""
        if self._kind == "local":
            created = self._try(lambda: _write_local(Path(self._at(path)), data, create=True), path)
        else:
            created = self._try(lambda: self._put_remote(path, data, create=True), path)
        return created or self._try(lambda: bool(self._fs.cat_file(self._at(path)) == data), path)

    def delete(self, path: str) -> None:
        """Remove; a file that is not there is fine."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._at(path))

        self._try(remove, path)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _try(self, call: Any, path: str) -> Any:
        return _patiently(call, self.uri_of(path))

    def _put_remote(self, path: str, data: bytes, *, create: bool) -> bool:
        if self._kind == "s3":
            bucket, key, _ = self._fs.split_path(self._at(path))
            condition = {"IfNoneMatch": "*"} if create else {}
            try:
                self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
            except Exception as error:
                if _error_code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True
        try:
            self._fs.pipe_file(self._at(path), data, mode="create" if create else "overwrite")
        except FileExistsError:
            return False
        return True


def _write_local(target: Path, data: bytes, *, create: bool) -> bool:
    """Temporary file beside the target, fsync, then link (fails if there) or rename (replaces)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if not create:
            temporary.replace(target)
            return True
        try:
            target.hardlink_to(temporary)
        except FileExistsError:
            return False
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _object_info(fs: Any, details: dict[str, Any]) -> ObjectInfo:
    etag = details.get("ETag") or details.get("etag")
    if not etag:
        changed = details.get("mtime") or details.get("LastModified") or details.get("updated") or details.get("created")
        etag = f"{changed}-{details['size']}" + (f"-{details['ino']}" if "ino" in details else "")
    return ObjectInfo(uri=fs.unstrip_protocol(details["name"]), size=int(details["size"]), etag=str(etag).strip('"'))


def _hidden(relative: str) -> bool:
    """Names that Hadoop-style writers use for markers; `_` inside key=value folders is fine."""
    return any(part.startswith((".", "_")) and "=" not in part for part in relative.split("/") if part)


def _error_code(error: BaseException) -> str:
    """The S3 error code behind whatever s3fs made of it, or ''."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__ or seen.__context__
    return ""


def _patiently(call: Any, uri: str) -> Any:
    """Run a storage call: retry what may pass, translate what may not."""

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=8),
        stop=tenacity.stop_after_delay(RETRY_SECONDS),
        reraise=True,
    )
    def attempt() -> Any:
        with translated(uri):
            return call()

    return attempt()


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what fsspec, botocore and the operating system raise into this project's three kinds."""
    try:
        yield
    except FileNotFoundError as error:
        if _error_code(error) == "NoSuchBucket" or "bucket does not exist" in str(error):
            raise UsageError(f"{redact(uri)}: the bucket does not exist; create it or correct the uri") from None
        raise
    except (UsageError, TransientError, ObjectMissing, ObjectChanged, FileExistsError):
        raise
    except PermissionError as error:
        raise UsageError(f"{redact(uri)}: access denied ({_plain(error)}); check credentials and storage_options") from None
    except Exception as error:
        text = f"{_error_code(error)} {type(error).__name__} {error}"
        if any(word in text for word in _DENIED):
            raise UsageError(f"{redact(uri)}: access denied ({_plain(error)}); check credentials and storage_options") from None
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiohttp", "aiobotocore"):
            raise TransientError(f"{redact(uri)}: storage did not answer as it should: {_plain(error)}") from error
        raise


def _plain(error: BaseException) -> str:
    """One line without credentials that some clients put into their messages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(?i)((?:access|secret|token|password|signature)[\w-]*[=:]\s*)\S+", r"\1***", text)[:300]

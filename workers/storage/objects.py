"""Source objects: listed, described and opened by full URI, on any fsspec scheme (S3 through s3fs, local folders).

    list_objects   what a URI, prefix or glob names
    stat_object    size and etag of one object
    open_object    a readable stream of an object that still has the size and etag that the manifest recorded

Failures are of three kinds (client.py): FileNotFoundError, UsageError and TransientError, the last only after retries for
`retry_seconds`: 60 s while a run works, 12 s where somebody waits at the start (jobs/driver/preflight.py).
Knows nothing of documents, shards or Parquet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, cast

from workers.errors import ObjectChanged, ObjectMissing, UsageError
from workers.storage.checksums import can_check, fetch_checked
from workers.storage.client import READ_BLOCK_BYTES, RETRY_SECONDS, filesystem, no_object, patiently
from workers.storage.uris import redact


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A source object as listed: full URI, size in bytes, and a tag that changes whenever the content does."""

    uri: str
    size: int
    etag: str


def object_key(uri: str) -> str:
    """The name of an object in the ids of documents that have none: its key within the bucket, or a local file's path."""
    scheme, separator, rest = uri.partition("://")
    return rest if separator and scheme in ("file", "local") else rest.partition("/")[2] if separator else uri


def list_objects(uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> list[ObjectInfo]:
    """Objects that a URI names: the object itself, all below a prefix, or those that match a glob.

    Hidden names (beginning with . or _) are left out. Local symbolic links to files are followed, links to folders are not.

    Raises:
        FileNotFoundError: there is none.
        UsageError: credentials or bucket refused. TransientError: no answer within `retry_seconds`.
    """
    fs, path = filesystem(uri, options, retry_seconds)
    magic = next((at for at, char in enumerate(path) if char in "*?["), None)

    def find() -> tuple[str, dict[str, Any]]:
        fs.invalidate_cache()
        if magic is not None:
            entries = cast("dict[str, Any]", fs.glob(path, detail=True))
            if entries:  # names are hidden only below the last folder without a wildcard
                return path[: path.rfind("/", 0, magic) + 1], entries
        if "file" in fs.protocol:
            return path.rstrip("/"), _find_local(fs, path)
        try:
            return path.rstrip("/"), fs.find(path, detail=True)
        except FileNotFoundError as error:
            if not no_object(error):
                raise
            return path, {}

    root, entries = patiently(find, uri, retry_seconds)
    objects: list[ObjectInfo] = []
    for name, details in sorted(entries.items()):
        if _hidden(name.removeprefix(root)):
            continue
        if details.get("islink"):
            details = patiently(lambda name=name: fs.info(name), uri, retry_seconds)  # type: ignore[misc]
        marker = name.endswith("/")  # an empty object by which a web console represents a folder
        if details.get("type", "file") == "file" and not marker:
            objects.append(_object_info(fs, details))
    if not objects:
        raise FileNotFoundError(f"{redact(uri)}: no objects there")
    return objects


def stat_object(uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> ObjectInfo:
    """Raises: FileNotFoundError, UsageError, TransientError."""
    fs, path = filesystem(uri, options, retry_seconds)

    def stat() -> ObjectInfo:
        fs.invalidate_cache()
        return _object_info(fs, fs.info(path))

    return patiently(stat, uri, retry_seconds)


def open_object(uri: str, size: int, etag: str, options: Mapping[str, Any], *, block: int = READ_BLOCK_BYTES) -> IO[bytes]:
    """Open a source object for reading, if it still has the size and etag that the manifest recorded.

    Size and etag are those of the version that was opened: s3fs reads on with If-Match, a local file stays open. Small
    objects on S3 are fetched whole and verified (checksums.py).

    Args:
        block: bytes read ahead by one request.

    Raises:
        ObjectMissing, ObjectChanged: with what to do about it.
        UsageError: credentials or bucket refused. TransientError: the store did not answer.
    """
    fs, path = filesystem(uri, options)

    def attempt() -> tuple[IO[bytes], ObjectInfo]:
        if "s3" in fs.protocol and can_check(size, etag):
            fetched = fetch_checked(fs, path, redact(uri))
            return io.BytesIO(fetched.data), ObjectInfo(uri, len(fetched.data), fetched.etag)
        fs.invalidate_cache()
        stream = fs.open(path, "rb", block_size=block, cache_type="readahead")
        try:
            details = getattr(stream, "details", None)
            return stream, _object_info(fs, details if isinstance(details, dict) else fs.info(path))
        except BaseException:
            stream.close()
            raise

    try:
        stream, now = patiently(attempt, uri)
    except FileNotFoundError:
        raise ObjectMissing(
            redact(uri), "deleted after the run was planned; restore it, or start a new run once this one has ended"
        ) from None
    if (now.size, now.etag) != (size, etag):
        stream.close()
        raise ObjectChanged(
            redact(uri),
            f"replaced after the run was planned (size {size} -> {now.size}, etag {etag} -> {now.etag}); "
            "the next run picks up the new version",
        )
    return stream


def _find_local(fs: Any, path: str) -> dict[str, Any]:
    """Like fs.find(), but raises for a folder that may not be read, which fs.find() silently leaves out."""
    if os.path.isfile(path):  # noqa: PTH113 - fsspec's paths are text
        return {path: fs.info(path)}
    if not os.path.isdir(path):  # noqa: PTH112 - as above
        return {}

    def fail(error: OSError) -> None:
        raise error

    entries: dict[str, Any] = {}
    for folder, below, names in os.walk(path, onerror=fail):
        below[:] = [name for name in below if not _hidden(name)]
        for name in names:
            at = f"{folder.rstrip('/')}/{name}"
            try:
                entries |= {} if _hidden(name) else {at: fs.info(at)}
            except OSError:
                if os.path.islink(at):  # noqa: PTH114 - as above
                    raise UsageError(f"{at}: a link that leads nowhere; remove it, or restore what it leads to") from None
                if os.path.lexists(at):
                    raise
    return entries


def _object_info(fs: Any, details: dict[str, Any]) -> ObjectInfo:
    etag = details.get("ETag") or details.get("etag")
    if not etag:
        changed = details.get("mtime") or details.get("LastModified") or details.get("updated") or details.get("created")
        changed = (
            changed.timestamp() if isinstance(changed, datetime) else changed
        )  # some filesystems give a number in listings and a date in stat
        etag = f"{changed}-{details['size']}" + (f"-{details['ino']}" if "ino" in details else "")
    uri = fs.unstrip_protocol(details["name"])
    if details["size"] is None:  # a web server that sends no Content-Length
        raise UsageError(f"{redact(uri)}: its store does not tell how large it is; copy it to one that does")
    return ObjectInfo(uri=uri, size=int(details["size"]), etag=str(etag).strip('"'))


def _hidden(relative: str) -> bool:
    """Whether Hadoop-style writers use such a name for markers. Key=value folders are never hidden."""
    return any(part.startswith((".", "_")) and "=" not in part for part in relative.split("/") if part)

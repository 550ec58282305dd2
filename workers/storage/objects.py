"""Source objects: listed, described and opened by full URI, on any fsspec scheme (S3 through s3fs, local folders).

    explore        what a URI, prefix or glob names, and which folders among it are tables
    list_objects   the objects alone
    stat_object    size and etag of one object
    open_object    a readable stream of an object that still has the size and etag that the manifest recorded

Failures are of three kinds (client.py): FileNotFoundError, UsageError and TransientError, the last only after retries for
`retry_seconds`: 60 s while a run works, 12 s where somebody waits at the start (jobs/driver/preflight.py).
Knows nothing of documents, shards or Parquet.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from workers.errors import AccessDenied, ObjectChanged, ObjectError, ObjectMissing, UsageError
from workers.storage.checksums import can_check, fetch_checked
from workers.storage.client import READ_BLOCK_BYTES, RETRY_SECONDS, filesystem, patiently
from workers.storage.find_objects import Found, find_entries, name_of, refuse_nothing, refuse_odd_names, tables_of
from workers.storage.uris import redact

_CHANGED = ("mtime", "LastModified", "updated", "created", "Last-Modified", "modify")  # when, as filesystems call it
log = logging.getLogger("reembed")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A source object as listed: full URI, size in bytes, and a tag that changes whenever the content does."""

    uri: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a URI names. `tables`: URI of a folder that is a table, and to which objects belong -> Delta, Hudi, ..."""

    objects: list[ObjectInfo]
    tables: Mapping[str, str]


def object_key(uri: str) -> str:
    """The name of an object in the ids of documents that have none: its key within the bucket, or a local file's path."""
    scheme, separator, rest = uri.partition("://")
    return rest if separator and scheme in ("file", "local") else rest.partition("/")[2] if separator else uri


def list_objects(uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> list[ObjectInfo]:
    """The objects of explore(). Raises: as explore()."""
    return explore(uri, options, retry_seconds=retry_seconds).objects


def explore(uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> Listing:
    """What a URI names: the object itself, all below a prefix, or what matches a glob.

    A name that exists as it is written is among them, although it holds `*`, `?` or `[`. A glob that matches folders
    alone, or that ends with `/`, means what is in them. Hidden names (beginning with . or _) are left out. Local links are
    followed, each folder once (local_listing.py).

    Raises:
        FileNotFoundError: there is none.
        UsageError: credentials or bucket refused, nothing there but hidden names, a name that is not UTF-8, a scheme whose
            objects cannot be named one by one. TransientError: no answer within `retry_seconds`.
    """
    fs, path = filesystem(uri, options, retry_seconds)

    def find() -> tuple[Found, dict[str, str]]:
        fs.invalidate_cache()
        found = find_entries(fs, path, prefix=uri.endswith("/"))
        return found, {} if list(found.entries) == [path] else tables_of(fs, found)

    found, tables = patiently(find, uri, retry_seconds)
    for folder, earlier in found.repeated:
        log.warning("%s: leads to a folder that is listed as %s; its files are taken once", folder, earlier)
    files = found.files
    refuse_odd_names([details["name"] for details in files])
    if not files:
        patiently(lambda: refuse_nothing(fs, found, path, uri), uri, retry_seconds)
    naming = name_of(fs, files[0]["name"], uri, options, retry_seconds)
    return Listing([_object_info(details, naming) for details in files], {naming(at): kind for at, kind in tables.items()})


def stat_object(uri: str, options: Mapping[str, Any], *, retry_seconds: float = RETRY_SECONDS) -> ObjectInfo:
    """Raises: FileNotFoundError, UsageError, TransientError."""
    fs, path = filesystem(uri, options, retry_seconds)

    def stat() -> ObjectInfo:
        fs.invalidate_cache()
        return _object_info(fs.info(path), fs.unstrip_protocol)

    return patiently(stat, uri, retry_seconds)


def open_object(uri: str, size: int, etag: str, options: Mapping[str, Any], *, block: int = READ_BLOCK_BYTES) -> IO[bytes]:
    """Open a source object for reading, if it still has the size and etag that the manifest recorded.

    Size and etag are those of the version that was opened: s3fs reads on with If-Match, a local file stays open. Small
    objects on S3 are fetched whole and verified (checksums.py).

    Args:
        block: bytes read ahead by one request.

    Raises:
        ObjectMissing, ObjectChanged: with what to do about it. ObjectError: archived, or refused to these credentials.
        UsageError: credentials or bucket refused. TransientError: the store did not answer.
    """
    fs, path = filesystem(uri, options)

    def attempt() -> tuple[IO[bytes], ObjectInfo]:
        if "s3" in fs.protocol and can_check(size, etag):
            fetched = fetch_checked(fs, path, redact(uri))
            return io.BytesIO(fetched.data), ObjectInfo(uri, len(fetched.data), fetched.etag)
        if "s3" in fs.protocol and "?versionId=" in path and not fs.version_aware:
            raise ObjectError(redact(uri), "its key holds ?versionId=, which the client takes for a version; rename it")
        fs.invalidate_cache()
        stream = fs.open(path, "rb", block_size=block, cache_type="readahead")
        try:
            details = getattr(stream, "details", None)
            if not isinstance(details, dict) or details.get("size") is None or "http" in fs.protocol:  # without its date
                details = fs.info(path)
            return stream, _object_info(details, fs.unstrip_protocol)
        except BaseException:
            stream.close()
            raise

    try:
        stream, now = patiently(attempt, uri)
    except FileNotFoundError:
        raise ObjectMissing(
            redact(uri), "deleted after the run was planned; restore it, or start a new run once this one has ended"
        ) from None
    except AccessDenied as error:
        raise ObjectError(redact(uri), str(error).removeprefix(f"{redact(uri)}: ")) from None
    if (now.size, now.etag) != (size, etag):
        stream.close()
        raise ObjectChanged(
            redact(uri),
            f"replaced after the run was planned (size {size} -> {now.size}, etag {etag} -> {now.etag}); "
            "the next run picks up the new version",
        )
    return stream


def _object_info(details: dict[str, Any], naming: Callable[[str], str]) -> ObjectInfo:
    etag = details.get("ETag") or details.get("etag") or details.get("blob_id")  # the last: of the Hugging Face hub
    if not etag:
        changed = next((details[name] for name in _CHANGED if details.get(name)), None)
        changed = (
            changed.timestamp() if isinstance(changed, datetime) else changed
        )  # some filesystems give a number in listings and a date in stat
        etag = f"{changed}-{details['size']}" + (f"-{details['ino']}" if "ino" in details else "")
    uri = naming(details["name"])
    if details["size"] is None:  # a web server that sends no Content-Length
        raise UsageError(f"{redact(uri)}: its store does not tell how large it is; copy it to one that does")
    return ObjectInfo(uri=uri, size=int(details["size"]), etag=str(etag).strip('"'))

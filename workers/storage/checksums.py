"""Whole S3 objects, fetched and verified against the MD5 in their ETag.

    one GET -> bytes, ETag -> MD5 compared with the ETag -> if they differ, one more GET
    two GETs that return the same bytes are accepted: random damage in transit would not repeat

An ETag is the MD5 of the bytes if the object was put in one piece and is not encrypted with a key of its own. Other objects
cannot be verified this way and are accepted as they arrive. Everything that decides what a run does (manifest, receipts,
lock, CURRENT.json) is small, put in one piece, and read here; so are source objects and parts up to WHOLE_BYTES. Larger
objects are protected by TLS alone.
This file does not retry: callers use client.patiently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fsspec.asyn

from workers.errors import TransientError

WHOLE_BYTES = 8 << 20  # up to this size a source object is fetched whole, by one request instead of several
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer to one GET.

    `etag` has no quotes. `plain`: `data` is the whole object, and no encryption makes its ETag something other than an MD5.
    """

    data: bytes
    etag: str
    plain: bool = True

    @property
    def intact(self) -> bool:
        """False if the ETag is an MD5 and is not that of the bytes."""
        return not (self.plain and _MD5.fullmatch(self.etag)) or _md5(self.data) == self.etag


def can_check(size: int, etag: str) -> bool:
    """Whether an object of this size and ETag is to be fetched whole and verified."""
    return 0 < size <= WHOLE_BYTES and _MD5.fullmatch(etag) is not None


def fetch_s3(fs: Any, path: str, span: tuple[int, int] | None = None) -> Fetched:
    """One GET of an object, or of its bytes from `span[0]` (inclusive) to `span[1]` (exclusive).

    A span can be verified only if it covers the whole object.

    Raises:
        FileNotFoundError: no such object. What else s3fs and its clients raise is not translated here.
    """
    bucket, key, version = fs.split_path(path)
    if not version:  # the client cuts `?versionId=` from a key all the same
        key += "".join(path.partition("?versionId=")[1:])
    which = {"VersionId": version} if version else {}
    if span is not None:
        which["Range"] = f"bytes={span[0]}-{span[1] - 1}"

    async def get() -> Fetched:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **which, **fs.req_kw)
        async with answer["Body"] as body:
            data = await body.read()
        encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
        _, _, size = str(answer.get("ContentRange", "")).partition(
            "/"
        )  # the object's size; absent if the whole object was asked for
        part = size != "" and size != str(len(data))
        return Fetched(data, str(answer.get("ETag", "")).strip('"'), plain=not encrypted and not part)

    fetched: Fetched = fsspec.asyn.sync(fs.loop, get)
    return fetched


def checked(fetch: Callable[[], Fetched], uri: str) -> Fetched:
    """The result of `fetch`, called a second time if the first result is not intact. `uri` names the object in errors.

    Raises:
        TransientError: both results differ from the ETag and from each other. Also whatever `fetch` raises.
    """
    first = fetch()
    if first.intact:
        return first
    second = fetch()
    if second.intact or second == first:
        return second
    raise TransientError(f"{uri}: its bytes arrive damaged, differently each time; look at the network before the store")


def fetch_checked(fs: Any, path: str, uri: str, span: tuple[int, int] | None = None) -> Fetched:
    """fetch_s3(), verified. `uri` names the object in errors. Raises: as fetch_s3() and checked()."""
    return checked(lambda: fetch_s3(fs, path, span), uri)


def fetch_range(fs: Any, path: str, uri: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of an object, fewer where it ends, in one request; on S3 verified where they are all of it.

    Raises: on S3 as fetch_checked(); elsewhere what the filesystem raises.
    """
    if "s3" in fs.protocol:
        return fetch_checked(fs, path, uri, (start, stop)).data
    data = bytes(fs.cat_file(path, start=start, end=stop))
    return data if len(data) <= stop - start else data[start:stop]  # a web server may send all of it


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

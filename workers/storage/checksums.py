"""Whole S3 objects whose bytes are known to be the ones that were stored.

    fetch: one GET -> bytes and what the store says of them -> MD5 compared with the ETag -> differs? fetch once more, and
    two fetches that agree are believed, since damage on the way does not strike twice in the same place

An ETag is the MD5 of the bytes for what was put in one piece and is not encrypted with a key of its own; of other objects
nothing can be told this way, and they are taken as they come. Everything that decides what a run does (manifest, receipts,
lock, CURRENT.json) is small, put in one piece, and read here; so are source objects and parts up to WHOLE_BYTES. TLS guards
the rest.
Knows nothing of retries: callers go through `patiently`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fsspec.asyn

from workers.errors import TransientError

WHOLE_BYTES = 8 << 20  # up to this size a source object is fetched by one request, which also saves the others
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """`etag` without quotes; `plain`: all of the object, not encrypted in a way that makes the ETag no MD5."""

    data: bytes
    etag: str
    plain: bool = True

    @property
    def intact(self) -> bool:
        """False: the bytes are not what the ETag says, if it says anything."""
        return not (self.plain and _MD5.fullmatch(self.etag)) or _md5(self.data) == self.etag


def can_check(size: int, etag: str) -> bool:
    """Whether an object of this size and ETag is fetched whole, and compared."""
    return 0 < size <= WHOLE_BYTES and _MD5.fullmatch(etag) is not None


def fetch_s3(fs: Any, path: str, span: tuple[int, int] | None = None) -> Fetched:
    """One GET of an object, or of its bytes from `span[0]` to `span[1]`, which can be checked where they are all there are.

    Raises:
        FileNotFoundError, and what s3fs and its clients raise.
    """
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    if span is not None:
        which["Range"] = f"bytes={span[0]}-{span[1] - 1}"

    async def get() -> Fetched:
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **which, **fs.req_kw)
        async with answer["Body"] as body:
            data = await body.read()
        encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
        _, _, size = str(answer.get("ContentRange", "")).partition("/")  # of all of it; absent where all was asked for
        part = size != "" and size != str(len(data))
        return Fetched(data, str(answer.get("ETag", "")).strip('"'), plain=not encrypted and not part)

    found: Fetched = fsspec.asyn.sync(fs.loop, get)
    return found


def checked(fetch: Callable[[], Fetched], uri: str) -> Fetched:
    """What `fetch` returns, once it is known to be intact.

    Raises:
        TransientError: two fetches differ from the ETag and from each other; and whatever `fetch` raises.
    """
    first = fetch()
    if first.intact:
        return first
    second = fetch()
    if second.intact or second == first:
        return second
    raise TransientError(f"{uri}: its bytes arrive damaged, differently each time; look at the network before the store")


def fetch_checked(fs: Any, path: str, uri: str, span: tuple[int, int] | None = None) -> Fetched:
    """fetch_s3() whose bytes are known to be intact; `uri` is what errors call the object. Raises: as both."""
    return checked(lambda: fetch_s3(fs, path, span), uri)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

"""A read-only S3 store for the corpus of the fixture. It answers the requests of a listing and a read, and no others.

The etag of a local file holds its inode and its time, and the URI its absolute path, so a stored run over local files cannot
be moved to another machine. Of an object on S3 the etag is the MD5 of its bytes and the endpoint is not part of the URI:
`s3://earlier-version/corpus/a.jsonl` is the same object everywhere. `make_fixture.py` and the tests serve the same files.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "earlier-version"
PREFIX = "corpus/"
CHANGED = "2026-11-01T00:00:00.000Z"


class SourceServer(ThreadingHTTPServer):
    """Serves the files of one folder, which may be exchanged for another, as `s3://earlier-version/corpus/NAME`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.folder = folder
        self.refused: dict[str, str] = {}  # key -> error code of the 403 that it answers with

    @property
    def options(self) -> dict[str, str]:
        """storage_options of a configuration that reads from here."""
        return {"endpoint_url": f"http://127.0.0.1:{self.server_port}", "key": "reader", "secret": "nobody checks it"}

    def objects(self) -> dict[str, bytes]:
        """Key -> bytes."""
        return {PREFIX + path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


@contextmanager
def serve(folder: Path) -> Iterator[SourceServer]:
    with SourceServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Requests(BaseHTTPRequestHandler):
    """ListObjectsV2 without pages, HeadBucket, HeadObject, GetObject with or without a range. Path-style addresses."""

    protocol_version = "HTTP/1.1"
    server: SourceServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def _answer(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        if bucket != BUCKET:
            self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif not key:
            self._send(200, self._listing(parse_qs(address.query)))
        elif (data := self.server.objects().get(key)) is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif key in self.server.refused:
            self._send(403, f"<Error><Code>{self.server.refused[key]}</Code></Error>".encode())
        else:
            self._send_object(data)

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = {key: data for key, data in self.server.objects().items() if key.startswith(prefix)}
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{CHANGED}</LastModified><ETag>&quot;{_etag(data)}&quot;</ETag>"
            f"<Size>{len(data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key, data in found.items()
        )
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>'
            f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        ).encode()

    def _send_object(self, data: bytes) -> None:
        headers = {"ETag": f'"{_etag(data)}"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, data, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else len(data) - int(last)
        stop = min(len(data), int(last) + 1) if first and last else len(data)
        self._send(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

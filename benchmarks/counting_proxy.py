"""A proxy in front of an S3 server that counts the objects a program reads: it forwards all bytes and records every GET.

It rewrites nothing. Clients sign requests for the proxy's address and send it as Host; servers check signatures against the
Host they receive, so they accept it. Lists and HEADs do not count as reads.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import unquote, urlsplit

_GET = re.compile(rb"GET (/[^ ?]*)(\?[^ ]*)? HTTP/1\.[01]\r\n")
_BLOCK = 1 << 16


class CountingProxy:
    """`opened`: path of an object -> GET requests for its bytes. `counts` False: no request passes through it."""

    def __init__(self, endpoint: str | None) -> None:
        self.opened: Counter[str] = Counter()
        self.counts = endpoint is not None
        self.environment: Mapping[str, str] = {}
        if endpoint is not None:
            target = urlsplit(endpoint)
            self._target = (target.hostname or "127.0.0.1", target.port or 80)
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
            self.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._listener.getsockname()[1]}"}
            threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    @contextmanager
    def between(cls, uri: str) -> Iterator[CountingProxy]:
        """A proxy in front of the server that AWS_ENDPOINT_URL names, if the URI is on S3."""
        proxy = cls(os.environ["AWS_ENDPOINT_URL"] if uri.startswith("s3://") else None)
        try:
            yield proxy
        finally:
            proxy.close()

    def close(self) -> None:
        if self.counts:
            self._listener.close()

    def objects_below(self, folder: str) -> dict[str, int]:
        """Names of the objects read below a folder of this name, with their number of requests."""
        found = {path.rpartition(folder)[2]: count for path, count in self.opened.items() if f"/{folder}" in path}
        return dict(sorted(found.items()))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for one, other, note in ((client, server, True), (server, client, False)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._hand_on, args=(one, other, note), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, note: bool) -> None:
        tail = b""  # a request line may arrive in two blocks
        with suppress(OSError):
            while data := source.recv(_BLOCK):
                if note:
                    tail = self._note(tail + data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _note(self, data: bytes) -> bytes:
        """Count the GETs of objects; returns what may be the beginning of another request line."""
        end = 0
        for match in _GET.finditer(data):
            end = match.end()
            path = unquote(match[1].decode())
            listing = match[2] is not None and b"list-type" in match[2]
            if not listing and path.count("/") > 1 and not path.endswith("/"):
                self.opened[path] += 1
        return data[max(end, len(data) - 2048) :]

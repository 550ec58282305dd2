"""A gate before a search server: it hands requests on, or does to bulk requests what a busy or small server does.

What it does is told by attributes, each used up by the bulk requests that come next:

    refuse        statuses that are answered in place of the server
    reject        how many requests have half of their operations rejected (429 by item), the others handed on
    lose          how many requests are handed on and their answer is not: the connection ends
    most_bytes    larger requests are answered by 413
    then          called once when the next bulk request has been handed on
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

Operation = tuple[str, list[bytes]]
REJECTED = {"type": "es_rejected_execution_exception", "reason": "rejected execution: queue capacity is reached"}


class Gate(ThreadingHTTPServer):
    """`where`: its address. `bodies`: of bulk requests, as they came. `headers`: of the last request."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.where = f"http://127.0.0.1:{self.server_address[1]}"
        self.server, self.pool = server, urllib3.PoolManager()
        self.refuse: list[int] = []
        self.reject = self.lose = 0
        self.most_bytes = 1 << 60
        self.then: Callable[[], None] | None = None
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}

    def handle_error(self, *_: Any) -> None:
        """A client that was killed is no error here."""


@contextmanager
def gate_before(server: str) -> Iterator[Gate]:
    with Gate(server) as gate:
        threading.Thread(target=gate.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield gate
        finally:
            gate.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.headers = dict(self.headers)
        if "/_bulk" in self.path:
            self._bulk(body)
        else:
            self._answer(*self._handed_on(body))

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _bulk(self, body: bytes) -> None:
        gate = self.server
        gate.bodies.append(body)
        if self.headers["Content-Type"] != "application/x-ndjson" or not body.endswith(b"\n"):
            self._answer(400, b'{"error":"no lines of JSON"}')
        elif len(body) > gate.most_bytes:
            self._answer(413, b"")
        elif gate.refuse:
            self._answer(gate.refuse.pop(0), b'{"error":{"type":"es_rejected_execution_exception","reason":"busy"}}')
        elif gate.reject:
            gate.reject -= 1
            self._half(body)
        else:
            answered = self._handed_on(body)
            if gate.then:
                then, gate.then = gate.then, None
                then()
            if gate.lose:
                gate.lose -= 1
                self.close_connection = True
            else:
                self._answer(*answered)

    def _half(self, body: bytes) -> None:
        """The first operation is rejected, and each second one after it."""
        operations = list(_operations(body))
        taken = b"".join(b"".join(lines) for _, lines in operations[1::2])
        items = json.loads(self._handed_on(taken)[1])["items"] if taken else []
        rejected = [{name: {"status": 429, "error": REJECTED}} for name, _ in operations[0::2]]
        mixed: list[Any] = [None] * len(operations)
        mixed[0::2], mixed[1::2] = rejected, items
        self._answer(200, json.dumps({"errors": True, "items": mixed}).encode())

    def _handed_on(self, body: bytes) -> tuple[int, bytes]:
        kind = {"Content-Type": self.headers["Content-Type"]} if body else {}
        answer = self.server.pool.request(self.command, self.server.server + self.path, body=body or None, headers=kind)
        return answer.status, answer.data

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _operations(body: bytes) -> Iterator[Operation]:
    """Name and lines of each."""
    lines = iter(body.splitlines(keepends=True))
    for line in lines:
        name = next(iter(json.loads(line)))
        yield name, [line] if name == "delete" else [line, next(lines)]

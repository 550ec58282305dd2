"""A faulty network before a real S3 server: a proxy that hands whole messages on, or does one of the things below to them.

    before the server    error_500, slow_down, reset, silence, denied (key suspended), expired (token)
    after a GET          truncated, flipped, drip
    after a change       lost_ack_reset, lost_ack_500: the server has applied it, the client is not told

Whether a request is spoilt is a function of the seed, the request and how often it has come, not of the order in which
threads happen to send: a seed does the same again. Clients sign requests for the address they know, which is the proxy's,
and send it as Host; servers check signatures against the Host they receive, so they accept it.
"""

from __future__ import annotations

import hashlib
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from tests.faults.wire import Message, read_answer, read_request, refusal

SILENCE_SECONDS = 90.0  # longer than any client waits
DRIP_SECONDS, DRIP_PIECES = 1.5, 10


class Wire(StrEnum):
    """What is done to a request or to its answer."""

    ERROR_500 = "error_500"
    SLOW_DOWN = "slow_down"
    RESET = "reset"
    SILENCE = "silence"
    DENIED = "denied"
    EXPIRED = "expired"
    TRUNCATED = "truncated"
    FLIPPED = "flipped"
    DRIP = "drip"
    LOST_ACK_RESET = "lost_ack_reset"
    LOST_ACK_500 = "lost_ack_500"


OF_GETS = (Wire.TRUNCATED, Wire.FLIPPED, Wire.DRIP)
OF_CHANGES = (Wire.LOST_ACK_RESET, Wire.LOST_ACK_500)
_REFUSALS = {
    Wire.ERROR_500: (500, "InternalError"),
    Wire.SLOW_DOWN: (503, "SlowDown"),
    Wire.DENIED: (403, "UserSuspended"),
    Wire.EXPIRED: (400, "ExpiredToken"),
}


class FaultyProxy:
    """`injected`: fault -> times. `rates`: fault -> share of the requests it can be done to; set it at any time."""

    def __init__(self, endpoint: str, seed: str = "") -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname or "127.0.0.1", target.port or 80)
        self.seed = seed
        self.rates: Mapping[Wire, float] = {}
        self.only = ""  # requests whose path holds this
        self.injected: Counter[Wire] = Counter()
        self.requests: Counter[str] = Counter()  # by method; and `multipart`: uploads begun in parts
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True, name="faulty-proxy").start()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def calm(self) -> None:
        """Hand everything on from now."""
        self.rates = {}

    def close(self) -> None:
        self._closed.set()
        self._listener.close()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def change(self, request: Message) -> Message:
        """For proxies that also alter what they hand on."""
        return request

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True, name="faulty-proxy").start()

    def _serve(self, client: socket.socket) -> None:
        """One client connection, and one to the server for as long as it lasts."""
        server: socket.socket | None = None
        self._note(client)
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, writer = cast(BinaryIO, client.makefile("rb")), cast(BinaryIO, client.makefile("wb"))
            while (request := read_request(reader, writer)) is not None:
                fault, salt = self._decide(request)
                if fault is not None and fault not in OF_GETS + OF_CHANGES:
                    if not self._refuse(client, fault):
                        return
                    continue
                if server is None:
                    server = socket.create_connection(self._target)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._note(server)
                    answers = cast(BinaryIO, server.makefile("rb"))
                server.sendall(self.change(request).bytes())
                answer = read_answer(answers, request.method)
                if not self._answer(client, answer, fault, salt):
                    return
        except (OSError, ValueError):
            pass  # a side that ended: the other one is told by its connection's end
        finally:
            for one in (client, server):
                if one is not None:
                    with self._lock:
                        self._open.discard(one)
                    one.close()

    def _decide(self, request: Message) -> tuple[Wire | None, int]:
        """What is done to it, and a number for where."""
        what = f"{request.method} {request.target}"
        with self._lock:
            self._seen[what] += 1
            self.requests[request.method] += 1
            self.requests["multipart"] += request.method == "POST" and "uploads" in request.target.partition("?")[2]
            draw = hashlib.sha256(f"{self.seed} {what} {request.header('Range')} {self._seen[what]}".encode()).digest()
        salt = int.from_bytes(draw[8:16], "big")
        if self.only not in request.path:
            return None, salt
        at = int.from_bytes(draw[:8], "big") / 2**64
        for fault, rate in self.rates.items():
            if not _applies(fault, request):
                continue
            if at < rate:
                return fault, salt
            at -= rate
        return None, salt

    def _count(self, fault: Wire) -> None:
        with self._lock:
            self.injected[fault] += 1

    def _refuse(self, client: socket.socket, fault: Wire) -> bool:
        """Whether the connection goes on."""
        self._count(fault)
        if fault in _REFUSALS:
            client.sendall(refusal(*_REFUSALS[fault]))
            return True
        if fault is Wire.SILENCE:
            end = time.monotonic() + SILENCE_SECONDS
            while time.monotonic() < end and not self._closed.is_set():
                if select.select([client], [], [], 0.2)[0] and not client.recv(1, socket.MSG_PEEK):
                    break
        _reset(client)
        return False

    def _answer(self, client: socket.socket, answer: Message, fault: Wire | None, salt: int) -> bool:
        """Hand an answer on, or spoil it; whether the connection goes on."""
        if fault is None or (fault in OF_GETS and (answer.status >= 300 or len(answer.body) < 2)):
            client.sendall(answer.bytes())
            return answer.header("Connection") != "close"
        self._count(fault)
        body = answer.body
        if fault is Wire.LOST_ACK_500:
            client.sendall(refusal(500, "InternalError"))
            return True
        if fault is Wire.LOST_ACK_RESET:
            _reset(client)
            return False
        if fault is Wire.TRUNCATED:
            client.sendall(answer.head + body[: len(body) // 2])
            return False
        if fault is Wire.FLIPPED:
            spoilt = bytearray(body)
            spoilt[salt % len(body)] ^= 1 << (salt % 7)
            body = bytes(spoilt)
        client.sendall(answer.head)
        pieces = DRIP_PIECES if fault is Wire.DRIP else 1
        step = -(-len(body) // pieces)
        for start in range(0, len(body), step):
            client.sendall(body[start : start + step])
            if fault is Wire.DRIP and self._closed.wait(DRIP_SECONDS / pieces):
                return False
        return True

    def _note(self, one: socket.socket) -> None:
        with self._lock:
            self._open.add(one)


def _applies(fault: Wire, request: Message) -> bool:
    if fault in OF_GETS:
        return request.method == "GET" and request.of_object
    if fault in OF_CHANGES:
        return request.method in ("PUT", "POST", "DELETE")
    return True


def _reset(client: socket.socket) -> None:
    """End it with RST, as a machine that has lost the connection does."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

"""The faulty proxy before a plain HTTP server: what each fault does to one exchange, and that a seed does it again."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.faults.proxy import DRIP_SECONDS, FaultyProxy, Wire

BODY = bytes(range(256)) * 40


class _Origin(BaseHTTPRequestHandler):
    """Keeps what is put; gives BODY, in chunks where `chunked` is asked for."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def do_GET(self) -> None:
        if "chunked" not in self.path:
            self._answer(BODY)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (BODY[:100], BODY[100:]):
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kept() -> dict[str, bytes]:
    return {}


@pytest.fixture
def proxy(kept: dict[str, bytes]) -> Iterator[FaultyProxy]:
    handler = type("Origin", (_Origin,), {"kept": kept})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        with FaultyProxy(f"http://127.0.0.1:{origin.server_port}", "seed") as proxy:
            yield proxy
        origin.shutdown()


def ask(proxy: FaultyProxy, method: str, path: str, body: bytes | None = None, timeout: float = 5) -> tuple[int, bytes]:
    """By a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=timeout)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_is_not_spoilt_is_handed_on(proxy: FaultyProxy, kept: dict[str, bytes]) -> None:
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)
    for number in range(3):  # on one connection, one behind the other
        connection.request("PUT", f"/bucket/{number}", b"x" * number * 100_000)
        assert connection.getresponse().read() == b""
        connection.request("GET", "/bucket/chunked" if number else "/bucket/plain")
        assert connection.getresponse().read() == BODY
    connection.close()
    assert {name: len(data) for name, data in kept.items()} == {f"/bucket/{number}": number * 100_000 for number in range(3)}
    assert proxy.requests["PUT"] == proxy.requests["GET"] == 3
    assert not proxy.injected


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Wire.ERROR_500, 500, b"InternalError"),
        (Wire.SLOW_DOWN, 503, b"SlowDown"),
        (Wire.DENIED, 403, b"UserSuspended"),
        (Wire.EXPIRED, 400, b"ExpiredToken"),
    ],
)
def test_refused(fault: Wire, status: int, code: bytes, proxy: FaultyProxy, kept: dict[str, bytes]) -> None:
    proxy.rates = {fault: 1.0}
    told, body = ask(proxy, "PUT", "/bucket/key", b"data")
    assert (told, kept) == (status, {})
    assert b"<Code>" + code + b"</Code>" in body
    assert proxy.injected == {fault: 1}


def test_nothing_comes_back(proxy: FaultyProxy, kept: dict[str, bytes]) -> None:
    proxy.rates = {Wire.RESET: 1.0}
    with pytest.raises(ConnectionError):
        ask(proxy, "PUT", "/bucket/key", b"data")
    proxy.rates = {Wire.SILENCE: 1.0}
    with pytest.raises(TimeoutError):
        ask(proxy, "PUT", "/bucket/key", b"data", timeout=0.3)
    assert kept == {}
    assert proxy.injected == {Wire.RESET: 1, Wire.SILENCE: 1}


def test_applied_and_not_acknowledged(proxy: FaultyProxy, kept: dict[str, bytes]) -> None:
    proxy.rates = {Wire.LOST_ACK_RESET: 1.0}
    with pytest.raises(ConnectionError):
        ask(proxy, "PUT", "/bucket/one", b"data")
    proxy.rates = {Wire.LOST_ACK_500: 1.0}
    assert ask(proxy, "PUT", "/bucket/two", b"data")[0] == 500
    assert kept == {"/bucket/one": b"data", "/bucket/two": b"data"}
    assert ask(proxy, "GET", "/bucket/one") == (200, BODY), "a GET changes nothing, so nothing of it is lost"


def test_what_a_get_brings(proxy: FaultyProxy) -> None:
    proxy.rates = {Wire.TRUNCATED: 1.0}
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(proxy, "GET", "/bucket/key")
    assert cut.value.partial == BODY[: len(BODY) // 2]
    proxy.rates = {Wire.FLIPPED: 1.0}
    spoilt = [ask(proxy, "GET", "/bucket/key")[1] for _ in range(2)]
    for body in spoilt:
        assert sum((a ^ b).bit_count() for a, b in zip(body, BODY, strict=True)) == 1
    assert spoilt[0] != spoilt[1], "not in the same place twice"
    proxy.rates = {Wire.DRIP: 1.0}
    began = time.monotonic()
    assert ask(proxy, "GET", "/bucket/key")[1] == BODY
    assert time.monotonic() - began > DRIP_SECONDS * 0.8
    listing = ask(proxy, "GET", "/bucket?list-type=2")[1]
    assert (listing, proxy.injected[Wire.DRIP]) == (BODY, 1), "lists are handed on"


def test_a_seed_spoils_the_same_requests_again(proxy: FaultyProxy) -> None:
    def statuses(seed: str) -> list[int]:
        proxy.seed = seed
        proxy._seen.clear()
        return [ask(proxy, "GET", f"/bucket/{number % 20}")[0] for number in range(60)]

    proxy.rates = {Wire.ERROR_500: 0.3}
    first = statuses("one")
    assert statuses("one") == first
    assert statuses("other") != first
    assert 6 <= first.count(500) <= 30
    proxy.only = "no such path"
    assert statuses("one") == [200] * 60

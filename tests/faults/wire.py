"""HTTP/1.1 messages as bytes, for a proxy that hands them on unchanged: whole requests and whole answers from a socket.

Bodies are kept as they came, chunked ones with their chunk lines, so that what is handed on is what was received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote

LONGEST_HEAD = 1 << 16
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BrokenOff(OSError):
    """The other side ended in the middle of a message."""


@dataclass(frozen=True)
class Message:
    """`head` ends with the empty line."""

    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.partition(b" ")[0].decode()

    @property
    def target(self) -> str:
        """Path and query of a request, as sent."""
        return self.head.split(b" ", 2)[1].decode()

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.head.split(b" ", 2)[1])

    @property
    def of_object(self) -> bool:
        """Whether a request means an object's bytes: no list, no sub-resource."""
        path, _, query = self.target.partition("?")
        plain = query in ("", "x-id=GetObject", "x-id=PutObject")
        return plain and path.strip("/").count("/") > 0 and not path.endswith("/")

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None

    def without(self, name: str) -> Message:
        """The same without a header."""
        kept = [line for line in self.head.split(b"\r\n") if not line.lower().startswith(name.lower().encode() + b":")]
        return Message(b"\r\n".join(kept), self.body)

    def bytes(self) -> bytes:
        return self.head + self.body


def read_request(stream: BinaryIO, ask_for_body: BinaryIO) -> Message | None:
    """The next request; None at the end. A client that waits for `100 Continue` gets it. Raises: BrokenOff."""
    head = _head(stream)
    if not head:
        return None
    request = Message(head, b"")
    if (request.header("Expect") or "").lower() == "100-continue":
        ask_for_body.write(CONTINUE)
        ask_for_body.flush()
        request = request.without("Expect")
    return Message(request.head, _body(stream, request))


def read_answer(stream: BinaryIO, method: str) -> Message:
    """The answer to a request of this method. Raises: BrokenOff."""
    while True:
        answer = Message(_head(stream), b"")
        if not answer.head:
            raise BrokenOff("no answer")
        if answer.status != 100:
            break
    if method == "HEAD" or answer.status in (204, 304):
        return answer
    if answer.header("Content-Length") is None and answer.header("Transfer-Encoding") is None:
        return Message(answer.head, stream.read())  # until the end of the connection
    return Message(answer.head, _body(stream, answer))


def refusal(status: int, code: str) -> bytes:
    """An answer as S3 words it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    words = {400: "Bad Request", 403: "Forbidden", 500: "Internal Server Error", 503: "Slow Down"}[status]
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _head(stream: BinaryIO) -> bytes:
    lines: list[bytes] = []
    while (line := stream.readline(LONGEST_HEAD)) not in (b"\r\n", b""):
        lines.append(line)
    if lines and line == b"":
        raise BrokenOff("ended inside a head")
    return b"".join([*lines, line])


def _body(stream: BinaryIO, message: Message) -> bytes:
    if "chunked" in (message.header("Transfer-Encoding") or ""):
        return b"".join(_chunks(stream))
    return _exactly(stream, int(message.header("Content-Length") or 0))


def _chunks(stream: BinaryIO) -> list[bytes]:
    found: list[bytes] = []
    while True:
        line = stream.readline(LONGEST_HEAD)
        size = int(line.partition(b";")[0], 16) if line else -1
        if size < 0:
            raise BrokenOff("ended inside a chunk")
        found += [line, _exactly(stream, size + 2)]
        if size == 0:
            return found


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise BrokenOff(f"{len(data)} of {count} bytes")
    return data

"""An OpenSearch or Elasticsearch server over HTTP: JSON out and in, asked again while it is busy.

    SearchServer    ask: a request and the answer to it
    SearchError     the server refused a request; BusyError: it may take it later; TooLargeError: it takes a smaller one
    credentials     the Authorization header, from the environment

Both servers have the few requests that a loader needs in the same form, so one client serves both. Every request of the
loader may be repeated: documents are put, patched and deleted by key.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity
import urllib3

from workers.errors import UsageError

SECONDS = 120.0  # of a request
PATIENCE = 120.0  # seconds for which a busy server is asked again
LONGEST_WAIT = 8.0  # between two tries
BUSY = (429, 502, 503, 504)
TOO_LARGE = 413
JSON, NDJSON = "application/json", "application/x-ndjson"
Result = TypeVar("Result")


class SearchError(Exception):
    """`status`: of HTTP; 0: no answer. `kind`: the server's name of the error, or ""."""

    def __init__(self, status: int, reason: str, kind: str = "") -> None:
        super().__init__(f"{status} {reason}" if status else reason)
        self.status, self.kind = status, kind


class BusyError(SearchError):
    """The same request may succeed later."""


class TooLargeError(SearchError):
    """The body has more bytes than the server takes."""


class SearchServer:
    """`url`: http(s)://host:port, perhaps with a path. Certificates are checked by the system's list, or SSL_CERT_FILE."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url.rstrip("/"), dict(headers)
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10.0, read=SECONDS))

    def ask(self, method: str, path: str, body: Any = None, *, patient: bool = True) -> dict[str, Any]:
        """The answer. `body`: a value as JSON, or the bytes of a bulk request. Raises: SearchError."""
        return self.patiently(lambda: self.once(method, path, body)) if patient else self.once(method, path, body)

    def patiently(self, call: Callable[[], Result]) -> Result:
        """What `call` returns; it is called again when it raises BusyError, with growing waits. Raises: SearchError."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BusyError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT),
            stop=tenacity.stop_before_delay(PATIENCE),
            reraise=True,
        )
        return retrying(call)

    def once(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Raises: SearchError."""
        kind = NDJSON if isinstance(body, bytes) else JSON
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": kind})
        try:
            answer = self._pool.request(
                method, f"{self._url}/{path}", body=data, headers=headers, retries=False, redirect=False
            )
        except urllib3.exceptions.SSLError as error:
            raise SearchError(0, f"TLS: {error}") from None
        except urllib3.exceptions.HTTPError as error:
            raise BusyError(0, f"no answer: {error}") from None
        if 200 <= answer.status < 300:
            return _parsed(answer.data)
        raise _refusal(answer.status, answer.data)

    def close(self) -> None:
        self._pool.clear()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SearchError(0, f"the answer is no JSON object: {data[:80]!r}")
    return found


def _refusal(status: int, data: bytes) -> SearchError:
    try:
        error = json.loads(data)["error"]
    except (ValueError, LookupError, TypeError):
        error = data[:200].decode(errors="replace")
    kind = str(error.get("type", "")) if isinstance(error, dict) else ""
    made = TooLargeError if status == TOO_LARGE else BusyError if status in BUSY else SearchError
    return made(status, told(error), kind)


def told(error: Any) -> str:
    """An error of the server in one line: its type and reason, and those of the deepest cause."""
    if not isinstance(error, dict):
        return str(error)
    cause = error
    while isinstance(cause.get("caused_by"), dict):
        cause = cause["caused_by"]
    lines = [f"{each.get('type')}: {each.get('reason')}" for each in (error, cause)]
    return lines[0] if lines[0] == lines[1] else f"{lines[0]} ({lines[1]})"


def address(store: str, where: str) -> str:
    """Raises: UsageError: no address of a server, or one with a password, which every process list would show."""
    parts = urlsplit(where)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"load {store}: WHERE must be http(s)://host:port")
    if parts.username is not None or parts.query:
        raise UsageError(f"load {store}: WHERE holds a user or a query; give {' or '.join(variables(store))} by environment")
    return where


def variables(store: str) -> tuple[str, str]:
    """The names of the environment that credentials are taken from."""
    name = {"elasticsearch": "ELASTIC"}.get(store, store.upper())
    return f"{name}_API_KEY", f"{name}_USERNAME and {name}_PASSWORD"


def credentials(store: str) -> dict[str, str]:
    """The header Authorization; none where the environment has no credentials."""
    prefix = variables(store)[0].removesuffix("_API_KEY")
    key, user, password = (os.environ.get(f"{prefix}_{name}") for name in ("API_KEY", "USERNAME", "PASSWORD"))
    if key:
        return {"Authorization": f"ApiKey {key}"}
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {}

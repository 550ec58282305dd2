"""Lineage: OpenLineage events of a driver's work on a run, to a file or an HTTP endpoint.

    START       when the driver begins, or resumes, a run
    COMPLETE    it is published
    FAIL        it was refused, or aborted: the facet errorMessage has the reason
    ABORT       it was stopped by a signal, or planned again without reuse

Events are built and sent by a thread, through the OpenLineage client (extra `lineage`), which is imported there. Nothing
that happens in it can fail the run; the end of a run waits a moment for its last event. What goes wrong is one warning.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from jobs.config import LineageConfig
from jobs.monitoring.lineage_event import RunFacts, RunState, run_event
from workers.errors import UsageError
from workers.storage.uris import public_line, redact

log = logging.getLogger("reembed")

FROM_ENVIRONMENT = "environment"
ANSWER_SECONDS = 5.0  # an HTTP endpoint must answer within this time
UNKNOWN_SECONDS = 0.5  # how long the end waits for one that has taken no event yet, and after a signal
API_KEY = "OPENLINEAGE_API_KEY"
_LOCAL = ("", "file")


def require_lineage(config: LineageConfig) -> None:
    """Before anything is begun. Raises: UsageError: no such endpoint is possible, or the client is not installed."""
    if config.endpoint is None:
        return
    scheme = urlsplit(config.endpoint).scheme if "://" in config.endpoint else ""
    if scheme not in ("http", "https", *_LOCAL):
        raise UsageError(
            f"lineage.endpoint={redact(config.endpoint)}: give an http(s) URL, the path of a file, or `{FROM_ENVIRONMENT}` "
            "for what the variables of OpenLineage's client name"
        )
    if importlib.util.find_spec("openlineage") is None or importlib.util.find_spec("openlineage.client") is None:
        raise UsageError("lineage.endpoint: needs the OpenLineage client; pip install 'reembed[lineage]'")


class Lineage:
    """The events of one driver."""

    def __init__(self, endpoint: str, facts: RunFacts) -> None:
        """Sends START."""
        self._facts = facts
        self._events: queue.SimpleQueue[RunFacts | None] = queue.SimpleQueue()
        self._loaded, self._ended = threading.Event(), threading.Event()  # the client is; the last event is dealt with
        self._taken = 0  # events
        self._warned = False
        self._endpoint = endpoint
        threading.Thread(target=self._work, name="lineage", daemon=True).start()
        self._tell(RunState.START)

    @classmethod
    def begun(cls, config: LineageConfig, facts: Callable[[], RunFacts]) -> Lineage | None:
        """None: no endpoint is given, or the facts cannot be read, which is a warning."""
        if config.endpoint is None:
            return None
        try:
            return cls(config.endpoint, facts())
        except Exception as error:  # noqa: BLE001 - lineage fails no run
            _warn(config.endpoint, error)
            return None

    def complete(self, rows: int, output_bytes: int) -> None:
        """The run is published."""
        self._end(RunState.COMPLETE, rows=rows, bytes=output_bytes)

    def fail(self, reason: str) -> None:
        """It is not, and `reason` says why."""
        self._end(RunState.FAIL, error=reason)

    def abort(self, reason: str) -> None:
        """Somebody stopped it, and waits."""
        self._end(RunState.ABORT, error=reason, patience=UNKNOWN_SECONDS)

    def _end(self, state: RunState, *, patience: float = ANSWER_SECONDS, **changes: Any) -> None:
        self._tell(state, **changes)
        self._events.put(None)
        self._loaded.wait(patience)
        if not self._ended.wait(patience if self._taken else UNKNOWN_SECONDS):
            self._warn(TimeoutError("no answer in time"))

    def _tell(self, state: RunState, **changes: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._events.put(replace(self._facts, state=state, time=now, **changes))

    def _work(self) -> None:
        client = None
        while (facts := self._events.get()) is not None:
            try:
                client = client or _client(self._endpoint)
                event = run_event(facts)
                self._loaded.set()
                client.emit(event)
                self._taken += 1
            except Exception as error:  # noqa: BLE001 - whatever client and endpoint do, the run goes on
                self._warn(error)
                self._loaded.set()
        self._ended.set()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _warn(self._endpoint, error)


def _warn(endpoint: str, error: Exception) -> None:
    reason = public_line(f"{type(error).__name__}: {error}")
    log.warning("lineage events do not reach %s: %s; the run is not affected", redact(endpoint), reason)


def _client(endpoint: str) -> Any:
    from openlineage.client import OpenLineageClient

    if endpoint == FROM_ENVIRONMENT:
        return OpenLineageClient()
    if endpoint.startswith(("http://", "https://")):
        from openlineage.client.transport.http import HttpConfig, HttpTransport

        url = urlsplit(endpoint)
        settings: dict[str, Any] = {"url": f"{url.scheme}://{url.netloc}", "timeout": ANSWER_SECONDS}
        settings["retry"] = {"total": 0, "connect": 0, "read": 0}
        if url.path.strip("/"):
            settings["endpoint"] = url.path.strip("/")
        if key := os.environ.get(API_KEY):
            settings["auth"] = {"type": "api_key", "apiKey": key}
        return OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(settings)))
    from openlineage.client.transport.file import FileConfig, FileTransport

    return OpenLineageClient(transport=FileTransport(FileConfig(endpoint.removeprefix("file://"), append=True)))

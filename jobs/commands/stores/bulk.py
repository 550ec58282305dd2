"""The bulk API of OpenSearch and Elasticsearch: rows as lines of JSON, in requests that are bounded by bytes.

    Action      what is done with one row: its lines, and how the row is called in an error
    send        actions -> requests; those of them that a busy server rejected are sent again

A request is answered item by item: some may be done, some rejected because a queue is full, some refused for good. Refused
ones are named by id and reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.commands.stores.search_server import BUSY, BusyError, SearchError, SearchServer, TooLargeError, told

BYTES = 10_000_000  # of a request: servers advise 5 to 15 MB, and take 100 MB by default
FOUND = "filter_path=errors,items.*.status,items.*.error"  # the part of an answer that is read


@dataclass(frozen=True, slots=True)
class Action:
    """`row`: id, and chunk where it has one. `lines`: JSON, each ended by a newline. `items`: how many operations they are.

    `absent`: whether the row may be missing, as a row that is to be deleted may be.
    """

    row: str
    lines: bytes
    items: int = 1
    absent: bool = False


def send(server: SearchServer, index: str, actions: Iterable[Action]) -> None:
    """Raises: SearchError: rows were refused, or the server stayed busy."""
    limit, batch, size = BYTES, list[Action](), 0
    for action in actions:
        if batch and size + len(action.lines) > limit:
            limit = _put(server, index, batch, limit)
            batch, size = [], 0
        batch.append(action)
        size += len(action.lines)
    if batch:
        _put(server, index, batch, limit)


def _put(server: SearchServer, index: str, batch: Sequence[Action], limit: int) -> int:
    """Returns the bytes of a request that the server takes: `limit`, or fewer once it refused one for its size."""
    waiting = list(batch)

    def once() -> None:
        answer = server.once("POST", f"{index}/_bulk?{FOUND}", b"".join(action.lines for action in waiting))
        waiting[:] = _rejected(waiting, answer)
        if waiting:
            raise BusyError(429, f"{len(waiting):,} rows were rejected again and again, e.g. {waiting[0].row}")

    try:
        server.patiently(once)
    except TooLargeError as error:
        size = sum(len(action.lines) for action in waiting)
        if len(waiting) == 1:
            what = f"{waiting[0].row} has {size:,} bytes, and the server takes fewer (http.max_content_length)"
            raise SearchError(error.status, what) from None
        middle = len(waiting) // 2
        for half in (waiting[:middle], waiting[middle:]):
            limit = min(size // 2, _put(server, index, half, limit))
    return limit


def _rejected(batch: Sequence[Action], answer: dict[str, Any]) -> list[Action]:
    """The actions that are to be sent again, whole: of two operations on a row the first may not come last.

    Raises: SearchError: some were refused for good.
    """
    items = [next(iter(item.values())) for item in answer.get("items", ())]
    if len(items) != sum(action.items for action in batch):
        raise SearchError(0, f"the answer to a bulk request has {len(items):,} items; {len(batch):,} rows were sent")
    again, refused, at = [], [], 0
    for action in batch:
        mine = items[at : at + action.items]
        at += action.items
        failed = [item for item in mine if not (200 <= item["status"] < 300 or (action.absent and item["status"] == 404))]
        final = [item for item in failed if item["status"] not in BUSY]
        if final:
            refused.append((action.row, f"{final[0]['status']} {told(final[0].get('error'))}"))
        elif failed:
            again.append(action)
    if refused:
        row, reason = refused[0]
        raise SearchError(0, f"{len(refused):,} of {len(batch):,} rows were refused, e.g. {row}: {reason}")
    return again

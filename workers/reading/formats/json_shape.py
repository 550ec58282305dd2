"""Whether the bytes of a JSON object are lines of it, one array, or one document. Pure.

resolve      JSON or JSONL, for names that leave it open
lines_error  why an object cannot be read as JSON lines
whole_error  why an object cannot be read as one array or document
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from workers.config import SourceFormat
from workers.reading.lines import BOM

NO_VALUE = object()
_DECODER = json.JSONDecoder()
HOLDS_LINES = "holds one JSON value a line, not one array or document; set corpus.format: jsonl"
_HOLDS_WHOLE = "not one JSON object a line; set corpus.format: json"
_NO_LINE_ENDS = "holds several JSON objects without line ends between them; put each on a line of its own, e.g. by `jq -c .`"


def resolve(head: bytes, complete: bool) -> SourceFormat | None:
    """JSON or JSONL, by an object's first bytes (`complete`: they are all); None: more are needed.

    JSON lines are told by a first line that is a JSON value of its own with more behind it. Where the first line is
    malformed, another line that is a JSON object by itself tells them.
    """
    body = head.removeprefix(BOM).lstrip()
    undecided = SourceFormat.JSON if complete else None
    line, _, rest = body.partition(b"\n")
    if not body or not rest.strip():
        return SourceFormat.JSON if body.startswith(b"[") else undecided
    if body.startswith(b"["):
        return SourceFormat.JSON
    if value_of(line) is not NO_VALUE:
        return SourceFormat.JSONL
    if _spans_lines(body):
        return SourceFormat.JSON
    return SourceFormat.JSONL if any(isinstance(value_of(other), dict) for other in rest.split(b"\n")) else undecided


def lines_error(head: bytes) -> str | None:
    """None: lines, or not known. One array of objects is none: each line must be an object."""
    body = head.removeprefix(BOM).lstrip()
    line, _, rest = body.partition(b"\n")
    of_objects = body.startswith(b"[") and body[1:].lstrip().startswith(b"{")
    all_of_it = not rest.strip() or value_of(line) is NO_VALUE  # else a line that is an array is one of several
    odd_line = isinstance(value_of(rest.partition(b"\n")[0]), dict) and line.strip() != b"["
    if of_objects and all_of_it and not odd_line:
        return f"holds one JSON array, {_HOLDS_WHOLE}"
    if rest and value_of(line) is NO_VALUE and _spans_lines(body):
        return f"holds one JSON document over several lines, {_HOLDS_WHOLE}"
    return _NO_LINE_ENDS if _runs_together(body) else None


def whole_error(head: bytes, complete: bool, columns: Collection[str]) -> str | None:
    """`columns`: those wanted; a document that has none of them, and an array of objects, holds its rows in that array."""
    body = head.removeprefix(BOM).lstrip()
    if _runs_together(body):
        return _NO_LINE_ENDS
    document = value_of(body) if complete and body.startswith(b"{") else NO_VALUE
    if not isinstance(document, dict) or any(name in document for name in columns):
        return None
    for name, value in document.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            mend = f"write that alone, e.g. by `jq -c '.[\"{name}\"][]'`"
            return f"is one document, whose rows are the array under {name!r}; {mend}"
    return None


def value_of(line: bytes) -> Any:
    """The JSON value that a line is; NO_VALUE: it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return NO_VALUE


def _spans_lines(body: bytes) -> bool:
    """Whether the value that begins the body goes on below its first line, as far as it is valid."""
    text = body.decode("utf-8", "replace")
    line_end = text.index("\n")
    try:
        _, known_to = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        known_to = error.pos
    except (ValueError, RecursionError):
        known_to = 0
    return known_to > line_end and not text[line_end:known_to].isspace()


def _runs_together(body: bytes) -> bool:
    """Whether all is one line, and a second object begins where the first one ends."""
    body = body.rstrip()
    if not body.startswith(b"{") or b"\n" in body:
        return False
    text = body.decode("utf-8", "replace")
    try:
        _, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return text[end:].lstrip().startswith("{")

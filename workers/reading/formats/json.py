"""JSON objects that hold one array of objects, or one document -> SourceRows.

    bytes -> text -> elements of the array one by one, or the document -> dict -> Arrow (workers/reading/json_columns.py)

An array is parsed incrementally: memory is one block and one element. An element beyond corpus.max_text_bytes is followed to
its end and quarantined, and so is a document. An element that is not valid JSON, or no object, is quarantined as long as its
brackets and quotes close; if they do not, nobody knows how many rows follow, and the object is damaged.

Many writers name JSON lines .json. With corpus.format: auto the content decides (json_shape.py), and lines are read as JSONL
is.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from workers.config import CorpusConfig, SourceFormat
from workers.errors import ObjectError, UsageError
from workers.reading.formats.json_shape import HOLDS_LINES, resolve, value_of, whole_error
from workers.reading.formats.jsonl import read_jsonl
from workers.reading.formats.traits import FormatTraits, HeadSample, Split, always
from workers.reading.json_columns import json_converter, object_or_bad, parse_object
from workers.reading.line_records import Bad, Record, gather, too_long
from workers.reading.lines import BLOCK_BYTES, BOM, LINE_OVERHEAD, Damaged, open_bytes
from workers.reading.source_rows import SourceRows
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream
from workers.storage.uris import redact

_SPACE = re.compile(r"[ \t\r\n]*")
_OUTSIDE, _INSIDE = re.compile(r'["\[\]{},]'), re.compile(r'["\\]')  # what matters outside of a string, and inside
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that could not be decoded, as surrogateescape leaves them
_DECODER = json.JSONDecoder()


def read_json(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, compression: str | None) -> Iterator[SourceRows]:
    """Raises: ObjectError (an array that never closes, JSON lines, compressed stream damaged), TransientError."""
    part = piece.start > 0 or piece.stop < stream.size  # only JSON lines are ever split
    if part or _holds_lines(stream, plan, compression):
        if plan.corpus.format is not SourceFormat.AUTO:
            raise ObjectError(stream.uri, HOLDS_LINES)
        yield from read_jsonl(stream, piece, plan, compression)
        return
    records = _records(stream, plan, compression)
    yield from gather(records, stream, piece, compression, json_converter(piece, plan))


def _holds_lines(stream: SourceStream, plan: ReadPlan, compression: str | None) -> bool:
    """As planning decides it: nothing longer than one record may be is needed."""
    read, head = open_bytes(stream, compression), b""
    try:
        while len(head) <= plan.corpus.max_text_bytes + LINE_OVERHEAD:
            block = read(max(BLOCK_BYTES, len(head)))
            head += block
            kind = resolve(head, not block)
            if kind is not None:
                return kind is SourceFormat.JSONL
    except Damaged:  # whoever reads the rows says so
        return resolve(head, True) is SourceFormat.JSONL
    return False


def _records(stream: SourceStream, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
    limit = plan.corpus.max_text_bytes + LINE_OVERHEAD
    text = _Text(open_bytes(stream, compression))
    if text.peek() != "[":
        yield from _document(stream, plan, compression)
        return
    rows = 0
    try:
        for size, cell in _elements(text, limit):
            rows += 1
            yield 0, size, too_long(size, plan, "element") if size > limit else cell
    except _Broken as error:
        raise ObjectError(
            stream.uri, f"truncated or corrupt JSON after {rows} rows ({error}); upload it again", rows
        ) from None


def _document(stream: SourceStream, plan: ReadPlan, compression: str | None) -> Iterator[Record]:
    """One record, or none where there is nothing but white space. A document beyond the limit streams by."""
    read = open_bytes(stream, compression)
    parts: list[bytes] = []
    size, limit = 0, plan.corpus.max_text_bytes + LINE_OVERHEAD
    while block := read(BLOCK_BYTES):
        size += len(block)
        parts = [*parts, block] if size <= limit else []
    data = b"".join(parts).removeprefix(BOM).strip()
    if size > limit:
        yield 0, 0, too_long(size, plan, "document")
    elif data:
        yield 0, size, parse_object(data, "document")


class _Text:
    """Decoded text from `at` on, a block at a time; bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._ended = False
        self.text, self.at = "", 0
        self.more()
        self.text = self.text.removeprefix("\ufeff")

    def more(self) -> bool:
        """Drop what lies before `at`, append the next block; False at the end."""
        grown = False
        while not self._ended and not grown:
            block = self._read(BLOCK_BYTES)
            self._ended = not block
            decoded = self._decode(block, self._ended)
            self.text, self.at, grown = self.text[self.at :] + decoded, 0, bool(decoded)
        return grown

    def peek(self) -> str:
        """The next character that is no white space, `at` moved there; "" at the end."""
        while True:
            self.at = _end_of_space(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Broken(Exception):
    """The array does not end as one does; says how."""


def _elements(text: _Text, limit: int) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """(bytes, cell) of every element of the array that begins at `text.at`. Raises: _Broken."""
    text.at += 1
    separator = "" if text.peek() == "]" else ","
    while separator == ",":
        element = (_parsed(text) or _scanned(text, limit)) if text.peek() else None
        if element is None:
            raise _Broken("its array is not closed")
        yield element
        separator = text.peek()
        text.at += separator == ","
    text.at += 1
    if text.peek():
        raise _Broken("something follows its array")


def _parsed(text: _Text) -> tuple[int, dict[str, Any] | Bad] | None:
    """The element at `text.at`, by Python's parser; None: malformed, or not all of it is in the window."""
    try:
        value, end = _DECODER.raw_decode(text.text, text.at)
    except (ValueError, RecursionError):
        return None
    after = _end_of_space(text.text, end)
    if text.text[after : after + 1] not in (",", "]") or _NOT_UTF8.search(text.text, text.at, end):
        return None
    size = end - text.at
    text.at = end
    return size, object_or_bad(value, "element")


def _scanned(text: _Text, limit: int) -> tuple[int, dict[str, Any] | Bad] | None:
    """The element at `text.at`, its end found by brackets and quotes alone; None: the object ends before.

    Beyond `limit` bytes only its size is kept.
    """
    pos, depth, in_string, dropped = text.at, 0, False, 0
    while True:
        found = (_INSIDE if in_string else _OUTSIDE).search(text.text, pos)
        if found is None:
            pos = max(pos, len(text.text))
            if dropped or len(text.text) - text.at > limit:
                dropped += _bytes(text.text[text.at :])
                text.at = len(text.text)
            pos -= text.at  # the window moves
            if not text.more():
                return None
            continue
        character, pos = found.group(), found.end()
        if character == '"':
            in_string = not in_string
        elif character == "\\":
            pos += 1
        elif character in "[{":
            depth += 1
        elif depth == 0 and character in ",]":
            break
        elif character in "]}":
            depth = max(0, depth - 1)
    element = text.text[text.at : found.start()]
    text.at = found.start()
    if dropped:
        return dropped + _bytes(element), Bad("")
    data = element.strip(" \t\r\n").encode("utf-8", "surrogateescape")
    return len(data), parse_object(data, "element") if len(data) <= limit else Bad("")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def sample_values(head: bytes, complete: bool, uri: str, _corpus: CorpusConfig) -> HeadSample | None:
    """Keys of the first elements, or of the document where its head is all of it.

    Raises:
        UsageError: the object holds JSON lines, and corpus.format says that it does not.
    """
    if resolve(head, complete) is SourceFormat.JSONL:
        raise UsageError(f"{redact(uri)}: {HOLDS_LINES}")
    records = [cell for _, cell in _head_elements(head) if isinstance(cell, dict)]
    if not head.removeprefix(BOM).lstrip().startswith(b"[") and complete:
        document = value_of(head.removeprefix(BOM))
        records = [document] if isinstance(document, dict) else []
    names = tuple(dict.fromkeys(name for record in records for name in record))
    return HeadSample(names, exact=False, records=records) if records else None


def _head_elements(head: bytes) -> list[tuple[int, dict[str, Any] | Bad]]:
    text, elements = _Text(io.BytesIO(head).read), list[tuple[int, dict[str, Any] | Bad]]()
    with contextlib.suppress(_Broken):  # the head ends within an element
        if text.peek() == "[":
            elements.extend(_elements(text, len(head)))
    return elements


def _error(head: bytes, complete: bool, _uri: str, corpus: CorpusConfig) -> str | None:
    return whole_error(head, complete, corpus.text)


def _record_bytes(head: bytes, _corpus: CorpusConfig) -> float:
    """Mean of an array's elements; a document is the whole object."""
    return len(head) / max(1, len(_head_elements(head)))


TRAITS = FormatTraits(
    format=SourceFormat.JSON,
    title="JSON",
    suffixes=(".json",),
    read=read_json,
    random_access=False,
    split=always(Split.NONE),
    empty_has_no_rows=True,
    sample=sample_values,
    examine=_error,
    resolve=resolve,
    record_bytes=_record_bytes,
)

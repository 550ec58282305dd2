"""Footers of ORC files: which bytes they are, and what they say, if that makes sense.

    fetch_footer    one request for the object's end, two for a footer beyond 64 KiB; never a stripe
    parse_footers   schema by pyarrow, stripes by hand -> rows and text bytes of each stripe, types, names

pyarrow decompresses the footer, and says nothing of single stripes; these are read from the protobuf message that it hands
out. Text bytes are those of the file's column statistics, spread over the stripes by their rows.
Format: https://orc.apache.org/specification/ORCv1/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from workers.reading.footers.facts import MAX_FOOTER_BYTES, TAIL_BYTES, FooterBytes, FooterFacts, ReadRange, TailFile

MAGIC = b"ORC"
COMPRESSED_RATIO = 3  # without statistics text is estimated to be this many times its stripes' compressed size
MOST = 1 << 48  # rows or bytes of one stripe: beyond it a figure is damage
_Message = dict[int, list[int | bytes]]
"""Field number -> values: numbers, or bytes of strings and messages."""


def fetch_footer(read: ReadRange, size: int) -> FooterBytes | str:
    """The object's end from the footer's first byte on. Raises what `read` raises."""
    if size < len(MAGIC) + 2:
        return "too small for an ORC file" if size else "zero bytes, not an ORC file"
    tail = read(max(0, size - TAIL_BYTES), size)
    postscript = tail[-1 - tail[-1] : -1]
    try:
        fields = message(postscript)
        needed = _number(fields, 1) + len(postscript) + 1
    except ValueError:
        fields, needed = {}, 0
    if fields.get(8000) != [MAGIC]:
        return "it does not end as an ORC file does (cut off?)"
    if needed > min(size, MAX_FOOTER_BYTES):
        return f"its footer claims {needed} bytes of {size}"
    if needed > len(tail):
        tail = read(size - needed, size)
    return (tail[-needed:],)


def parse_footers(
    footers: Sequence[tuple[FooterBytes, int]], text: Sequence[str], others: Sequence[str]
) -> list[FooterFacts | str]:
    """What each footer says of these columns, or the problem with it.

    Args:
        footers: what fetch_footer gave, and the size of the whole object.
        text, others: top-level columns that will be read.
    """
    return [_parse(footer, size, text, others) for (footer,), size in footers]


def stripe_rows(file: Any) -> list[int]:
    """Rows of each stripe of an open pyarrow.orc.ORCFile. Raises: ValueError: they do not agree with the file's totals."""
    stripes = list(_messages(_footer(file), 3))
    rows = [_number(stripe, 5) for stripe in stripes]
    if len(rows) != file.nstripes or sum(rows) != file.nrows or not all(0 <= count < MOST for count in rows):
        raise ValueError(f"it promises {file.nrows} rows in {file.nstripes} stripes, and {sum(rows)} in {len(rows)}")
    return rows


def _parse(footer: bytes, size: int, text: Sequence[str], others: Sequence[str]) -> FooterFacts | str:
    import pyarrow.orc as orc  # not at the top: the driver knows this module, and has no use for that

    try:
        file = orc.ORCFile(TailFile(footer, size))
        schema = file.schema
        names = tuple(schema.names)  # raises where one is not UTF-8
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
        return f"its footer cannot be parsed: {' '.join(str(error).split())[:200]}"
    try:
        rows = stripe_rows(file)
        _check_places(_footer(file), size - len(footer))
        text_bytes = _text_bytes(file, names, text)
    except (ValueError, LookupError) as error:
        return f"its footer is corrupt: {error}"
    groups = tuple((count, text_bytes * count // max(1, file.nrows)) for count in rows)
    return FooterFacts(groups, {field.name: field.type for field in schema if field.name in {*text, *others}}, names)


def _footer(file: Any) -> _Message:
    (footer,) = _messages(message(file.reader.serialized_file_tail()), 2)
    return footer


def _check_places(footer: _Message, data_bytes: int) -> None:
    """Raises: ValueError: stripes lie outside of the object's data, or in the same place."""
    end = 0
    for number, stripe in enumerate(_messages(footer, 3)):
        start, length = _number(stripe, 1), sum(_number(stripe, field) for field in (2, 3, 4))
        if not end <= start <= start + length <= data_bytes:
            raise ValueError(f"stripe {number} does not lie where it may")
        end = start + length


def _text_bytes(file: Any, names: Sequence[str], text: Sequence[str]) -> int:
    """Bytes of all values of the text columns: by the columns' statistics, else guessed from their stripes' size."""
    footer = _footer(file)
    columns = list(_numbers(next(_messages(footer, 4), {}), 2))  # of the root: the id of each top-level column
    statistics = list(_messages(footer, 7))
    total = 0
    for name in text:
        if name not in names:
            continue
        column = columns[names.index(name)]
        sums = [_sum(statistics[column], kind) for kind in (4, 8)] if column < len(statistics) else []
        known = [value for value in sums if value is not None]
        total += known[0] if known else sum(_number(stripe, 3) for stripe in _messages(footer, 3)) * COMPRESSED_RATIO
    if not 0 <= total < MOST:
        raise ValueError(f"its text columns claim {total} bytes")
    return total


def _sum(statistics: _Message, kind: int) -> int | None:
    """Total length of strings (kind 4) or binaries (kind 8); None: not written."""
    for values in _messages(statistics, kind):
        field = 3 if kind == 4 else 1
        if field in values:
            value = _number(values, field)
            return (value >> 1) ^ -(value & 1)  # zigzag
    return None


def message(data: bytes) -> _Message:
    """A protobuf message, one level of it. Raises: ValueError: it is not complete."""
    fields: _Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value: int | bytes
            value, at = _varint(data, at)
        else:
            if key & 7 == 2:
                length, at = _varint(data, at)
            elif key & 7 in (1, 5):
                length = 8 if key & 7 == 1 else 4
            else:
                raise ValueError(f"a field of unknown kind {key & 7}")
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise ValueError("a field is longer than its message")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _number(fields: _Message, field: int) -> int:
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")  # noqa: TRY004 - damage, as all else here
    return value


def _numbers(fields: _Message, field: int) -> Iterator[int]:
    """A repeated number, packed or not."""
    for value in fields.get(field, ()):
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            yield number


def _messages(fields: _Message, field: int) -> Iterator[_Message]:
    for value in fields.get(field, ()):
        if isinstance(value, bytes):
            yield message(value)

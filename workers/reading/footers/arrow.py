"""Footers of Arrow IPC files (Feather version 2), and the schema at the start of Arrow IPC streams.

    fetch_footer    the file's end, then the metadata message of every record batch; of a stream the schema message
    parse_footers   schema by pyarrow, messages by hand -> rows and text bytes of each record batch, types, names

The footer lists where record batches lie; how many rows they hold is in the batches' own metadata messages. A stream has no
footer, so its rows are known only after reading. Messages are flatbuffers: read here with bounds checked, because pyarrow
gives them only together with the data. docs: https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.types as pt

from workers.reading.footers.facts import MAX_FOOTER_BYTES, TAIL_BYTES, FooterBytes, FooterFacts, ReadRange, TailFile

MAGIC = b"ARROW1"
STREAM_START, STREAM_END = b"\xff" * 4, b"\xff" * 4 + bytes(4)
COMPRESSED_RATIO = 3  # text is estimated to be this many times its size in compressed buffers (lz4, zstd)
MOST = 1 << 48  # rows or bytes of one batch: beyond it a figure is damage
_HEAD_BYTES = 16  # magic, padding, and the length of the schema message
_PADDING_BYTES = 128  # between blocks at most, and before the footer with an end marker; no record batch is so small
_TRAILER = 4 + len(MAGIC)  # the footer's length, then the magic
_GAP_BYTES, _REQUEST_BYTES = 64 << 10, 8 << 20  # messages are fetched together across gaps up to, and in requests up to this
_BLOCK = struct.Struct("<qi4xq")
_Span = tuple[int, int]


class Block(NamedTuple):
    """Where one message and its data lie in a file."""

    offset: int
    metadata_bytes: int
    body_bytes: int


class Batch(NamedTuple):
    """The metadata of one record batch or dictionary."""

    rows: int
    nodes: list[int]  # length of each array, depth first
    buffers: list[int]  # bytes of each
    compressed: bool
    variadic: list[int]  # data buffers of each array of views


def kind_of(head: bytes, tail: bytes) -> str:
    """`file` or `stream`, by the first and the last bytes. Raises: ValueError: the object is neither, or not complete."""
    if head.startswith(MAGIC):
        if not tail.endswith(MAGIC):
            raise ValueError("it does not end as an Arrow file does (cut off?)")
        return "file"
    if head.startswith(STREAM_START):
        if not tail.endswith(
            STREAM_END
        ):  # the marker is optional, but a stream that was cut between batches has none either
            raise ValueError("the Arrow stream has no end marker (cut off?)")
        return "stream"
    if head.startswith(b"FEA1"):
        raise ValueError("it is Feather version 1; write it as version 2, which is an Arrow file")
    raise ValueError("it begins neither as an Arrow file nor as an Arrow stream")


def fetch_footer(read: ReadRange, size: int) -> FooterBytes | str:
    """File: the footer, then the messages of its dictionaries and record batches. Stream: the schema message.

    Raises what `read` raises.
    """
    if size < len(MAGIC) + _TRAILER:
        return "too small for an Arrow file" if size else "zero bytes, not an Arrow file"
    tail = read(max(0, size - TAIL_BYTES), size)
    head = tail if size == len(tail) else read(0, min(size, TAIL_BYTES) if tail.endswith(STREAM_END) else _HEAD_BYTES)
    try:
        if kind_of(head, tail) == "stream":
            return _fetch_schema(read, size, head)
        needed = int.from_bytes(tail[-_TRAILER : -len(MAGIC)], "little") + _TRAILER
        if needed > min(size, MAX_FOOTER_BYTES):
            return f"its footer claims {needed} bytes of {size}"
        if needed > len(tail):
            tail = read(size - needed, size)
        try:
            dictionaries, batches = _blocks(tail[-needed:], size - needed)
            _check_places(head, dictionaries + batches, size - needed, needed)
        except (ValueError, struct.error) as error:
            return f"its footer is corrupt: {error}"
        return (tail[-needed:], *_fetch_messages(read, tail, size, dictionaries + batches))
    except ValueError as error:
        return str(error)


def parse_footers(
    footers: Sequence[tuple[FooterBytes, int]], text: Sequence[str], others: Sequence[str]
) -> list[FooterFacts | str]:
    """What each footer says of these columns, or the problem with it.

    Args:
        footers: what fetch_footer gave, and the size of the whole object.
        text, others: top-level columns that will be read.
    """
    return [_parse(parts, size, text, others) for parts, size in footers]


def batch_rows(footer: bytes, messages: Sequence[bytes], size: int) -> list[int]:
    """Rows of each record batch of a file. Raises: ValueError, struct.error: the footer is corrupt."""
    dictionaries, batches = _blocks(footer, size - len(footer))
    return [_batch(message, block).rows for message, block in zip(messages[len(dictionaries) :], batches, strict=True)]


def _parse(parts: FooterBytes, size: int, text: Sequence[str], others: Sequence[str]) -> FooterFacts | str:
    footer, *messages = parts
    is_stream = footer.startswith(STREAM_START)
    try:
        if is_stream:
            schema, count = pa.ipc.read_schema(pa.BufferReader(footer)), 0
        else:
            with pa.ipc.open_file(pa.PythonFile(TailFile(footer, size), mode="r")) as file:
                schema, count = file.schema, file.num_record_batches
        names = tuple(schema.names)  # raises where one is not UTF-8
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError, OverflowError) as error:
        return f"its footer cannot be parsed: {' '.join(str(error).split())[:200]}"
    types = {field.name: field.type for field in schema if field.name in {*text, *others}}
    if is_stream:
        return FooterFacts(None, types, names)
    try:
        groups = _groups(footer, messages, size, schema, set(text))
    except (ValueError, LookupError, struct.error) as error:
        return f"its footer is corrupt: {error}"
    if len(groups) != count:
        return f"its footer is corrupt: it lists {len(groups)} record batches, and {count} for pyarrow"
    return FooterFacts(groups, types, names)


def _groups(
    footer: bytes, messages: Sequence[bytes], size: int, schema: pa.Schema, text: set[str]
) -> tuple[tuple[int, int], ...]:
    """(rows, text bytes) of each record batch. Raises: ValueError, struct.error."""
    dictionaries, batches = _blocks(footer, size - len(footer))
    parsed = [_batch(message, block) for message, block in zip(messages, dictionaries + batches, strict=True)]
    values, of_values = (
        sum(item.rows for item in parsed[: len(dictionaries)]),
        sum(block.body_bytes for block in dictionaries),
    )
    groups = []
    for number, batch in enumerate(parsed[len(dictionaries) :]):
        text_bytes, nodes, buffers, variadic = 0.0, iter(batch.nodes), iter(batch.buffers), iter(batch.variadic)
        for field in schema:
            rows, data = _take(field.type, nodes, buffers, variadic)
            if rows != batch.rows:
                raise ValueError(f"record batch {number} has {batch.rows} rows, its column {field.name!r} {rows}")
            if field.name in text:
                is_encoded = pt.is_dictionary(field.type)
                text_bytes += of_values / max(1, values) * rows if is_encoded else data
        if next(nodes, None) is not None or next(buffers, None) is not None:
            raise ValueError(f"record batch {number} holds more arrays than its schema")
        groups.append((batch.rows, int(text_bytes) * (COMPRESSED_RATIO if batch.compressed else 1)))
    return tuple(groups)


def _take(kind: pa.DataType, nodes: Iterator[int], buffers: Iterator[int], variadic: Iterator[int]) -> tuple[int, int]:
    """Length of an array of this type, and bytes of its last buffer (the data of strings); the iterators move past it.

    Raises: ValueError: there are not so many arrays or buffers.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _take(kind.storage_type, nodes, buffers, variadic)
    count, children = _layout(kind)
    rows = _next(nodes)
    sizes = [_next(buffers) for _ in range(count)]
    if pt.is_string_view(kind) or pt.is_binary_view(kind):  # short values lie in the views themselves
        sizes.append(sum(sizes[1:2]) // 2 + sum(_next(buffers) for _ in range(_next(variadic))))
    for child in children:
        _take(child, nodes, buffers, variadic)
    return rows, sizes[-1] if sizes else 0


def _layout(kind: pa.DataType) -> tuple[int, list[pa.DataType]]:
    """Buffers of an array of this type without its children and variadic ones, and its children's types."""
    children = [] if pt.is_dictionary(kind) else [kind.field(at).type for at in range(kind.num_fields)]
    if pt.is_null(kind):
        return 0, children
    if pt.is_run_end_encoded(kind):
        return 0, [kind.run_end_type, kind.value_type]
    if pt.is_struct(kind) or pt.is_fixed_size_list(kind):
        return 1, children
    if pt.is_union(kind):
        return 1 if kind.mode == "sparse" else 2, children
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        return 3, children
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind):
        return 3, children
    return 2, children  # validity and one more: numbers, times, fixed binaries, indices, views; offsets of lists and maps


def _next(values: Iterator[int]) -> int:
    value = next(values, None)
    if value is None:
        raise ValueError("a record batch holds fewer arrays than its schema")
    return value


def _fetch_schema(read: ReadRange, size: int, head: bytes) -> FooterBytes | str:
    needed = 8 + int.from_bytes(head[4:8], "little")
    if needed > min(size, MAX_FOOTER_BYTES):
        return f"its schema claims {needed} bytes of {size}"
    return ((head if needed <= len(head) else read(0, needed))[:needed],)


def _fetch_messages(read: ReadRange, tail: bytes, size: int, blocks: Sequence[Block]) -> list[bytes]:
    """The metadata message of each block; those that lie near each other in one request."""
    spans = sorted({(block.offset, block.offset + block.metadata_bytes) for block in blocks})
    requests: list[_Span] = []
    for start, stop in spans:
        if requests and start - requests[-1][1] <= _GAP_BYTES and stop - requests[-1][0] <= _REQUEST_BYTES:
            requests[-1] = (requests[-1][0], max(stop, requests[-1][1]))
        else:
            requests.append((start, stop))
    messages: dict[_Span, bytes] = {}
    left = iter(spans)
    span = next(left, None)
    for begin, end in requests:
        in_tail = begin >= size - len(tail)
        data = tail[begin - size + len(tail) : end - size + len(tail)] if in_tail else read(begin, end)
        while span is not None and span[1] <= end:
            messages[span] = data[span[0] - begin : span[1] - begin]
            span = next(left, None)
    return [messages[block.offset, block.offset + block.metadata_bytes] for block in blocks]


def _blocks(footer: bytes, data_bytes: int) -> tuple[list[Block], list[Block]]:
    """Dictionaries and record batches that a file's footer lists. Raises: ValueError, struct.error: it is corrupt."""
    table = _Table.root(footer, 0)
    found = []
    for field in (2, 3):
        start, count = table.vector(field, _BLOCK.size)
        blocks = [Block(*_BLOCK.unpack_from(footer, start + _BLOCK.size * at)) for at in range(count)]
        for offset, metadata_bytes, body_bytes in blocks:
            if not (offset >= 8 and metadata_bytes > 8 and 0 <= body_bytes <= data_bytes - offset - metadata_bytes):
                raise ValueError("a record batch lies outside of the object's data")
        found.append(blocks)
    return found[0], found[1]


def _check_places(head: bytes, blocks: Sequence[Block], data_bytes: int, footer_bytes: int) -> None:
    """Raises: ValueError: the blocks do not fill the file between its schema and its footer, so the footer lacks some."""
    if head[8:12] == STREAM_START:
        end, gap = 16 + int.from_bytes(head[12:16], "little"), _PADDING_BYTES
    else:  # Polars writes the schema without its length: it is shorter than the footer, which holds it too
        end, gap = 8, footer_bytes
    for start, stop in [*sorted((block.offset, sum(block)) for block in blocks), (data_bytes, data_bytes)]:
        if not 0 <= start - end <= gap:
            raise ValueError(f"it lists nothing between bytes {end} and {start}")
        end, gap = stop, _PADDING_BYTES


def _batch(message: bytes, block: Block) -> Batch:
    """A message of a record batch or a dictionary. Raises: ValueError, struct.error: it is corrupt."""
    table = _Table.root(message, 8 if message.startswith(STREAM_START) else 4)
    header = table.number(1, "<B")
    batch = {2: lambda: table.child(2).child(1), 3: lambda: table.child(2)}.get(header)  # DictionaryBatch, RecordBatch
    if batch is None:
        raise ValueError(f"a message of kind {header} where a record batch should be")
    record = batch()
    nodes = record.structs(1, "<qq")
    buffers = record.structs(2, "<qq")
    rows = record.number(0, "<q")
    if not 0 <= rows < MOST or any(not 0 <= length < MOST for length, _ in nodes):
        raise ValueError(f"a record batch claims {rows} rows")
    if any(offset < 0 or not 0 <= size <= block.body_bytes - offset for offset, size in buffers):
        raise ValueError("an array lies outside of its record batch")
    variadic = [count for (count,) in record.structs(4, "<q")]
    if any(not 0 <= count <= len(buffers) for count in variadic):
        raise ValueError("an array of views claims more buffers than there are")
    return Batch(rows, [length for length, _ in nodes], [size for _, size in buffers], record.has(3), variadic)


class _Table:
    """A flatbuffers table; every access is checked against the bytes at hand."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._read("<i", at)
        self._fields = (self._read("<H", self._vtable) - 4) // 2

    @classmethod
    def root(cls, data: bytes, at: int) -> _Table:
        return cls(data, at + int(struct.unpack_from("<I", data, at)[0]))

    def _read(self, form: str, at: int) -> int:
        if at < 0:  # struct would count from the end
            raise ValueError("an offset points before its message")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _place(self, field: int) -> int | None:
        """Where the field's value lies; None: left at its default."""
        offset = self._read("<H", self._vtable + 4 + 2 * field) if field < self._fields else 0
        return self._at + offset if offset else None

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else self._read(form, place)

    def child(self, field: int) -> _Table:
        place = self._place(field)
        if place is None:
            raise ValueError("a message lacks its record batch")
        return _Table(self._data, place + self._read("<I", place))

    def vector(self, field: int, item_bytes: int) -> _Span:
        """First byte and number of items."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + self._read("<I", place)
        count = self._read("<I", start)
        if start + 4 + count * item_bytes > len(self._data):
            raise ValueError("a list is longer than its message")
        return start + 4, count

    def structs(self, field: int, form: str) -> list[tuple[int, ...]]:
        start, count = self.vector(field, struct.calcsize(form))
        return list(struct.iter_unpack(form, self._data[start : start + count * struct.calcsize(form)]))

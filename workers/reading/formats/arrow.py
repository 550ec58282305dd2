"""Record batches of an Arrow IPC object -> SourceRows: a file (Feather version 2), or a stream, whichever its bytes say.

    schema -> which columns (id, text, keep; others are not decoded) -> are their types usable?
    -> record batches one by one -> checked -> pieces of about one window -> converted columns

A file is split by record batches, a stream is read whole. Memory is one record batch, so its writer decides: most write at
most some 64 Ki rows a batch. Compressed batches (lz4, zstd) are understood. There are no checksums: every array is checked
before its values are touched, because pyarrow trusts offsets and indices.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from workers.config import SourceFormat
from workers.errors import ObjectError
from workers.reading.columnar import ColumnLayout, pieces
from workers.reading.footers.arrow import batch_rows, fetch_footer, kind_of, parse_footers
from workers.reading.footers.facts import FooterReader
from workers.reading.formats.traits import FormatTraits, Split, always
from workers.reading.source_rows import SourceRows
from workers.reading.typed.nested import map_type
from workers.records.documents import ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

_END_BYTES = 8
_AS_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


def read_arrow(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, _compression: str | None) -> Iterator[SourceRows]:
    """Rows of record batches piece.start to piece.stop of a file, or of a whole stream.

    Raises:
        ObjectError: not Arrow, corrupt, a column is missing or of a type that cannot be used, fewer rows than planned.
        TransientError, ObjectMissing: the store failed.
    """
    with stream.decoding("Arrow", 0):
        head, tail = (_read_at(stream, start) for start in (0, max(0, stream.size - _END_BYTES)))
        is_file = kind_of(head, tail) == "file"
        schema = (_open_file if is_file else _open_stream)(stream, None).schema
        _ = schema.names  # names that are not UTF-8 are damage
    layout = ColumnLayout(stream.uri, schema, dict(piece.partitions), plan)
    wanted = [schema.names.index(name) for name in layout.fetched]
    batches = _file_batches(stream, piece, wanted) if is_file else _stream_batches(stream, wanted)
    first, done = piece.first_row, 0
    if first is None:
        first = _rows_before(stream, piece.start) if is_file else 0
    while True:
        with stream.decoding("Arrow", done):
            batch = next(batches, None)
            if batch is not None:
                _check_arrays(batch)
        if batch is None:
            break
        for part in pieces(batch):
            yield layout.rows(part, first + done)
            done += part.num_rows
    if piece.rows is not None and done != piece.stored_rows:
        reason = f"holds {done} rows where its footer promised {piece.stored_rows}; upload it again"
        raise ObjectError(stream.uri, reason, done)


def _read_at(stream: SourceStream, start: int) -> bytes:
    stream.seek(start)
    return stream.read(_END_BYTES)


def _options(wanted: list[int] | None) -> pa.ipc.IpcReadOptions:
    return pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)


def _open_file(stream: SourceStream, wanted: list[int] | None) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.PythonFile(stream, mode="r"), options=_options(wanted))


def _open_stream(stream: SourceStream, wanted: list[int] | None) -> pa.ipc.RecordBatchStreamReader:
    stream.seek(0)
    return pa.ipc.open_stream(pa.PythonFile(stream, mode="r"), options=_options(wanted))


def _file_batches(stream: SourceStream, piece: ObjectSlice, wanted: list[int]) -> Iterator[pa.RecordBatch]:
    file = _open_file(stream, wanted)
    if piece.stop > file.num_record_batches:
        count = file.num_record_batches
        raise ObjectError(stream.uri, f"has {count} record batches where {piece.stop} were planned; start a new run")
    for number in range(piece.start, piece.stop):
        yield file.get_batch(number)


def _stream_batches(stream: SourceStream, wanted: list[int]) -> Iterator[pa.RecordBatch]:
    yield from _open_stream(stream, wanted)
    if stream.tell() != stream.size:
        raise ValueError(f"an end marker at byte {stream.tell()} of {stream.size}")


def _rows_before(stream: SourceStream, batch: int) -> int:
    """Rows of the record batches before this one. Raises: ObjectError, TransientError."""

    def read(start: int, stop: int) -> bytes:
        stream.seek(start)
        return stream.read(stop - start)

    with stream.decoding("Arrow", 0):
        parts = fetch_footer(read, stream.size)
        if isinstance(parts, str):
            raise ObjectError(stream.uri, parts)
        return sum(batch_rows(parts[0], parts[1:], stream.size)[:batch])


def _check_arrays(batch: pa.RecordBatch) -> None:
    """Offsets, lengths and indices of every column lie where they may: they come from the object as they are.

    Strings need not be UTF-8: that is each row's own fault, and is found later.

    Raises:
        ValueError: pyarrow's ArrowInvalid.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
            _as_binary(column).validate(full=True)


def _as_binary(array: pa.Array) -> pa.Array:
    """The array with bytes in place of strings, at any depth."""
    if isinstance(array, pa.ExtensionArray):
        return _as_binary(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(array.indices, _as_binary(array.dictionary), safe=True)
    return array.view(_binary_type(array.type))


def _binary_type(kind: pa.DataType) -> pa.DataType:
    """Of the same buffers, with bytes in place of strings at any depth."""
    return map_type(kind, lambda inner: _AS_BYTES.get(inner, inner))


TRAITS = FormatTraits(
    format=SourceFormat.ARROW,
    title="Arrow",
    suffixes=(".arrow", ".feather", ".ipc"),
    read=read_arrow,
    random_access=True,
    split=always(Split.GROUPS),
    group="record batch",
    compresses="buffers",
    typed_ids=True,
    empty_has_no_rows=False,
    signature=b"ARROW1",
    footer=FooterReader(fetch_footer, parse_footers),
)

"""Row groups of a Parquet object -> SourceRows.

    footer -> which columns (id, text, keep; others are never fetched) -> are their types usable?
    -> batches of about one window -> converted columns

Memory: one batch plus one read buffer per column, or one page where a page is larger. Text columns are read as dictionaries,
so that a long text repeated a million times costs its length once; batches are halved until their decoded size is bounded.
pyarrow cannot do that with texts in delta encodings (version 2 of several writers): from there on they are read plain.
Page checksums are verified where the writer left them. What goes wrong with the whole object raises ObjectError; what is
wrong with a row is named in SourceRows.reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from workers.errors import ObjectError
from workers.reading.columns import Column, id_column, is_text, kept_column, plain_type, refusal, text_column
from workers.reading.source_rows import SourceRows
from workers.records.documents import WINDOW_BYTES, WINDOW_ROWS, ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BUFFER_BYTES = 4 << 20  # one range request inside a large column chunk
_NO_DICTIONARIES = "Not yet implemented: DecodeArrow of DictAccumulator"  # of an encoding, in pyarrow's words


def read_parquet(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan) -> Iterator[SourceRows]:
    """Rows of row groups piece.start to piece.stop.

    Raises:
        ObjectError: not Parquet, corrupt, a column is missing or of a type that cannot be used, fewer rows than planned.
        TransientError, ObjectMissing: the store failed.
    """
    with stream.decoding("Parquet", 0):
        probe = pq.ParquetFile(stream, pre_buffer=False)
        schema = probe.schema_arrow
    layout = _Layout(stream, schema, dict(piece.partitions), plan)
    groups = probe.metadata.num_row_groups
    if piece.stop > groups:
        raise ObjectError(stream.uri, f"has {groups} row groups where {piece.stop} were planned; start a new run")

    def opened(dictionaries: list[str]) -> Any:
        return pq.ParquetFile(
            stream,
            metadata=probe.metadata,
            pre_buffer=False,
            buffer_size=BUFFER_BYTES,
            read_dictionary=dictionaries,
            page_checksum_verification=True,
        )

    with stream.decoding("Parquet", 0):
        # Of row groups, only the totals: pyarrow's accessors of their columns end the process on some corrupt footers
        group_of = probe.metadata.row_group
        first = piece.first_row
        if first is None:
            first = sum(group_of(number).num_rows for number in range(piece.start))
        numbers = list(range(piece.start, piece.stop))
        sizes = [(group_of(number).total_byte_size, group_of(number).num_rows) for number in numbers]
    row_bytes = max((size // max(1, rows) for size, rows in sizes), default=0)
    done = 0
    for batch in _batches(stream, opened, layout, numbers, row_bytes):
        for part in _halved(batch):
            yield layout.rows(part, first + done)
            done += part.num_rows
    if piece.rows is not None and done != piece.rows:
        raise ObjectError(stream.uri, f"holds {done} rows where its footer promised {piece.rows}; upload it again", done)


class _Layout:
    """Which of the wanted columns the object has, which its path gives, and how each is converted."""

    def __init__(self, stream: SourceStream, schema: pa.Schema, partitions: dict[str, str | None], plan: ReadPlan) -> None:
        corpus = plan.corpus
        self._plan = plan
        self._partitions = partitions
        self._label = {name: "text" if len(corpus.text) == 1 else f"text column {name}" for name in corpus.text}
        kept = list(plan.keep.names)
        wanted = list(dict.fromkeys([*([corpus.id] if corpus.id else []), *corpus.text, *kept]))
        self.fetched = [name for name in wanted if name in schema.names]
        self.texts_in_file = [name for name in corpus.text if name in schema.names]
        columns = ", ".join(schema.names)
        for name in self.fetched:
            if schema.names.count(name) > 1:
                raise ObjectError(stream.uri, f"has more than one column {name!r}; rename one and upload it again")
        for setting, names in (("corpus.id", [corpus.id] if corpus.id else []), ("corpus.text", corpus.text)):
            for name in names:
                if name not in schema.names and name not in partitions:
                    raise ObjectError(
                        stream.uri, f"has no column {name!r} ({setting}), only {columns}; correct the setting or the object"
                    )
        for name in self.texts_in_file:
            if not is_text(schema.field(name).type):
                raise ObjectError(
                    stream.uri,
                    f"text column {name!r} is of type {schema.field(name).type}, not string; "
                    "correct corpus.text, or write the column as string",
                )
        source = schema.field(corpus.id).type if corpus.id in schema.names else pa.string()
        reason = None if is_text(source) or pt.is_nested(plain_type(source)) else refusal(source, plan.id_type)
        if reason:
            raise ObjectError(
                stream.uri, f"id column {corpus.id!r}: {reason}, the type of ids in this run; correct corpus.id"
            )
        for column in plan.keep:
            source = schema.field(column.name).type if column.name in schema.names else pa.string()
            reason = refusal(source, column.type)
            if reason and (column.name in schema.names or column.name in partitions):
                raise ObjectError(
                    stream.uri,
                    f"kept column {column.name!r}: {reason}, its type in the rest of the corpus; "
                    "write it with that type, or leave it out of corpus.keep",
                )

    def rows(self, batch: pa.RecordBatch, first_row: int) -> SourceRows:
        plan = self._plan
        found = SourceRows(first_row, None, [], [])
        if plan.corpus.id is not None:
            found.ids = self._take(found, id_column(self._column(batch, plan.corpus.id), plan.id_type))
        for name in plan.corpus.text:
            found.texts.append(self._take(found, text_column(self._column(batch, name), self._label[name])))
        for column in plan.keep:
            kept = kept_column(self._column(batch, column.name), column.type, column.name)
            found.keep.append(self._take(found, kept))
        return found

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self.fetched:
            return batch.column(name)
        if name in self._partitions:
            return pa.repeat(pa.scalar(self._partitions[name], pa.string()), batch.num_rows)
        return pa.nulls(batch.num_rows)

    @staticmethod
    def _take(found: SourceRows, column: Column) -> pa.Array:
        for place, reason in column[1].items():
            found.reasons.setdefault(place, reason)
        return column[0]


def _batches(
    stream: SourceStream, opened: Callable[[list[str]], Any], layout: _Layout, groups: list[int], row_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Batches of about one window."""
    count = max(1, min(WINDOW_ROWS, WINDOW_BYTES // max(1, row_bytes)))

    def begin(dictionaries: list[str]) -> Iterator[pa.RecordBatch]:
        file = opened(dictionaries)
        return iter(file.iter_batches(count, row_groups=groups, columns=layout.fetched, use_threads=False))

    done = 0
    with stream.decoding("Parquet", 0):
        batches, plain = begin(layout.texts_in_file), not layout.texts_in_file
    while True:
        with stream.decoding("Parquet", done):
            try:
                batch = next(batches, None)
            except OSError as error:
                if plain or _NO_DICTIONARIES not in str(error):
                    raise
                batches, plain = _after(begin([]), done), True
                continue
            for column in batch.columns if batch is not None else ():
                _check_indices(column)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


def _after(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """What comes after so many rows."""
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


def _check_indices(column: pa.Array) -> None:
    """A flipped byte can make a dictionary index point beyond its dictionary, which decoding would follow."""
    if pt.is_dictionary(column.type) and len(column) > column.null_count:
        bounds = pc.min_max(column.indices).as_py()
        if bounds["min"] < 0 or bounds["max"] >= len(column.dictionary):
            raise ValueError("a dictionary index points beyond its dictionary")


def _halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces whose dictionary columns decode to no more than two windows each, or are single rows."""
    size = 0
    for column in batch.columns:
        if pt.is_dictionary(column.type) and (pt.is_string(column.type.value_type) or pt.is_binary(column.type.value_type)):
            size += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    if size <= 2 * WINDOW_BYTES or batch.num_rows <= 1:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _halved(batch.slice(0, middle))
    yield from _halved(batch.slice(middle))

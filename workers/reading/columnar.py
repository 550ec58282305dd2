"""Record batches of formats with a schema (Parquet, Arrow, ORC) -> SourceRows: what these readers share.

ColumnLayout    which of the wanted columns an object has, whether their types are usable, and how each is converted
halved          a batch in pieces, so that its dictionary columns decode in bounded memory
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from workers.errors import ObjectError
from workers.reading.columns import Column, id_column, id_refusal, is_text, kept_column, text_column
from workers.reading.footers.table_columns import names_in_file
from workers.reading.notation import text_refusal
from workers.reading.source_rows import SourceRows
from workers.reading.typed.strings import kept_strings
from workers.reading.typed.type_names import shown_names
from workers.reading.widening import refusal
from workers.records.documents import WINDOW_BYTES, WINDOW_ROWS, ReadPlan


class ColumnLayout:
    """Which of the wanted columns the object has, which its path gives, and how each is converted.

    `fetched`, `texts_in_file`: columns to read, by the names that the object has for them.
    """

    def __init__(self, uri: str, schema: pa.Schema, partitions: dict[str, str | None], plan: ReadPlan) -> None:
        corpus = plan.corpus
        self._plan = plan
        schema, stored = _table_schema(uri, schema, plan)
        self._partitions = partitions
        self._label = {name: "text" if len(corpus.text) == 1 else f"text column {name}" for name in corpus.text}
        kept = list(plan.keep.names)
        wanted = list(dict.fromkeys([*([corpus.id] if corpus.id else []), *corpus.text, *kept]))
        self._stored = {name: stored.get(name, name) for name in wanted if name in schema.names}
        self.fetched = list(self._stored.values())
        self.texts_in_file = [self._stored[name] for name in corpus.text if name in schema.names]
        columns = shown_names(schema.names)
        for name in self._stored:
            if schema.names.count(name) > 1:
                raise ObjectError(uri, f"has more than one column {name!r}; rename one and upload it again")
        for setting, names in (("corpus.id", [corpus.id] if corpus.id else []), ("corpus.text", corpus.text)):
            for name in names:
                if name not in schema.names and name not in partitions:
                    raise ObjectError(
                        uri, f"has no column {name!r} ({setting}), only {columns}; correct the setting or the object"
                    )
        for name in [name for name in corpus.text if name in self._stored]:
            if not is_text(schema.field(name).type):
                raise ObjectError(
                    uri,
                    f"text column {name!r} is of type {schema.field(name).type}, not string; "
                    "correct corpus.text, or write the column as string",
                )
        source = schema.field(corpus.id).type if corpus.id in schema.names else pa.string()
        reason = id_refusal(source, plan.id_type)
        if reason:
            raise ObjectError(uri, f"id column {corpus.id!r}: {reason}, the type of ids in this run; correct corpus.id")
        for column in plan.keep:
            if column.name in schema.names:
                reason = refusal(schema.field(column.name).type, column.type)
            else:  # a folder's value, which is read as the stated type
                in_path = column.name in partitions and column.name not in plan.stated
                reason = text_refusal(column.type) if in_path else None
            if reason:
                raise ObjectError(
                    uri,
                    f"kept column {column.name!r}: {reason}, its type in the rest of the corpus; "
                    "write it with that type, or leave it out of corpus.keep",
                )

    def rows(self, batch: pa.RecordBatch, first_row: int, unfit: Mapping[int, str] | None = None) -> SourceRows:
        """`unfit`: {place: why} of rows that the format's reader could not read exactly."""
        plan = self._plan
        found = SourceRows(first_row, None, [], [], dict(unfit or {}))
        if plan.corpus.id is not None:
            found.ids = self._take(found, id_column(self._column(batch, plan.corpus.id), plan.id_type))
        for name in plan.corpus.text:
            found.texts.append(self._take(found, text_column(self._column(batch, name), self._label[name])))
        for column in plan.keep:
            array = self._column(batch, column.name)
            in_path = column.name not in self._stored and column.name in self._partitions
            if in_path:
                kept = kept_strings(array, column, column.name in plan.stated)
            else:
                kept = kept_column(array, column.type, column.name)
            found.keep.append(self._take(found, kept))
            if column.name in self._stored or in_path:
                found.seen.add(column.name)
        return found

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._stored:
            return batch.column(self._stored[name])
        if name in self._partitions:
            return pa.repeat(pa.scalar(self._partitions[name], pa.string()), batch.num_rows)
        return pa.nulls(batch.num_rows)

    @staticmethod
    def _take(found: SourceRows, column: Column) -> pa.Array:
        for place, reason in column[1].items():
            found.reasons.setdefault(place, reason)
        return column[0]


def _table_schema(uri: str, schema: pa.Schema, plan: ReadPlan) -> tuple[pa.Schema, dict[str, str]]:
    """The schema by the names of the table that the object belongs to, and those names -> the object's own."""
    if plan.table is None or not plan.table.columns:
        return schema, {}
    try:
        stored = names_in_file(schema, plan.table.columns)
    except ValueError as error:
        raise ObjectError(uri, str(error)) from None
    return pa.schema([schema.field(own).with_name(name) for name, own in stored.items()]), stored


def check_indices(column: pa.Array) -> None:
    """A flipped byte can make a dictionary index point beyond its dictionary, which decoding would follow."""
    if pt.is_dictionary(column.type) and len(column) > column.null_count:
        bounds = pc.min_max(column.indices).as_py()
        if bounds["min"] < 0 or bounds["max"] >= len(column.dictionary):
            raise ValueError("a dictionary index points beyond its dictionary")


def halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces whose dictionary columns decode to no more than two windows each, or are single rows."""
    size = 0
    for column in batch.columns:
        if pt.is_dictionary(column.type) and is_text(column.type) and len(column.dictionary):
            lengths = pc.binary_length(column.dictionary.cast(pa.large_binary()))
            size += pc.sum(lengths.take(column.indices)).as_py() or 0
    if size <= 2 * WINDOW_BYTES or batch.num_rows <= 1:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from halved(batch.slice(0, middle))
    yield from halved(batch.slice(middle))


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in order, in pieces that hold and decode to about one window; nothing is copied."""
    row_bytes = max(1, batch.nbytes // max(1, batch.num_rows))
    count = max(1, min(WINDOW_ROWS, WINDOW_BYTES // row_bytes))
    for start in range(0, batch.num_rows, count):
        yield from halved(batch.slice(start, count))

"""Row groups of a Parquet object -> SourceRows.

    footer -> which columns (id, text, keep; others are never fetched) -> are their types usable?
    -> batches of about one window -> converted columns

Memory: one batch plus one read buffer per column, or one page where a page is larger. Text columns are read as dictionaries,
so that a long text repeated a million times costs its length once; batches are halved until their decoded size is bounded.
pyarrow cannot do that with texts in delta encodings (version 2 of several writers): from there on they are read plain.
INT96 timestamps are read as microseconds and compared with what the file holds (workers/reading/typed/int96.py).
Page checksums are verified where the writer left them. What goes wrong with the whole object raises ObjectError; what is
wrong with a row is named in SourceRows.reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.config import SourceFormat
from workers.errors import ObjectError
from workers.reading.columnar import ColumnLayout, check_indices, halved
from workers.reading.footers.facts import FooterReader
from workers.reading.footers.parquet import INT96_UNIT, fetch_footer, missing_columns, parse_footers
from workers.reading.formats.traits import FormatTraits, Split, always
from workers.reading.source_rows import SourceRows
from workers.reading.typed.int96 import Int96Check
from workers.records.documents import WINDOW_BYTES, WINDOW_ROWS, ReadPlan
from workers.records.shard import ObjectSlice
from workers.storage.stream import SourceStream

BUFFER_BYTES = 4 << 20  # one range request inside a large column chunk
_NO_DICTIONARIES = "Not yet implemented: DecodeArrow of DictAccumulator"  # of an encoding, in pyarrow's words


def read_parquet(stream: SourceStream, piece: ObjectSlice, plan: ReadPlan, _compression: str | None) -> Iterator[SourceRows]:
    """Rows of row groups piece.start to piece.stop.

    Raises:
        ObjectError: not Parquet, corrupt, a column is missing or of a type that cannot be used, fewer rows than planned.
        TransientError, ObjectMissing: the store failed.
    """
    with stream.decoding("Parquet", 0):
        probe = pq.ParquetFile(stream, pre_buffer=False, coerce_int96_timestamp_unit=INT96_UNIT)
        schema = probe.schema_arrow
    layout = ColumnLayout(stream.uri, schema, dict(piece.partitions), plan)
    groups = probe.metadata.num_row_groups
    problem = missing_columns(probe.metadata)
    if problem is None and piece.rows is None and groups < piece.stop == piece.size:  # as planned without row groups
        problem = "its figures do not agree with each other"
    if problem is not None:
        raise ObjectError(stream.uri, f"its footer is corrupt: {problem}; upload it again")
    if piece.stop > groups:
        raise ObjectError(stream.uri, f"has {groups} row groups where {piece.stop} were planned; start a new run")

    def opened(dictionaries: list[str], unit: str = INT96_UNIT) -> Any:
        return pq.ParquetFile(
            stream,
            metadata=probe.metadata,
            pre_buffer=False,
            buffer_size=BUFFER_BYTES,
            read_dictionary=dictionaries,
            coerce_int96_timestamp_unit=unit,
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
        int96 = _int96_columns(probe.metadata.schema, [name for name in layout.fetched if name not in layout.texts_in_file])
    row_bytes = max((size // max(1, rows) for size, rows in sizes), default=0)

    def in_unit(unit: str) -> Iterator[pa.RecordBatch]:
        file = opened([], unit)
        return iter(file.iter_batches(_batch_rows(row_bytes), row_groups=numbers, columns=int96, use_threads=False))

    with stream.decoding("Parquet", 0):
        check = Int96Check(int96, in_unit)
    done = 0
    for batch in _batches(stream, opened, layout, numbers, row_bytes):
        with stream.decoding("Parquet", done):
            unfit = check.unfit(batch)
        at = 0
        for part in halved(batch):
            end = at + part.num_rows
            yield layout.rows(part, first + done, {place - at: why for place, why in unfit.items() if at <= place < end})
            done, at = done + part.num_rows, end
    if piece.rows is not None and done != piece.stored_rows:
        reason = f"holds {done} rows where its footer promised {piece.stored_rows}; upload it again"
        raise ObjectError(stream.uri, reason, done)


def _batches(
    stream: SourceStream, opened: Callable[[list[str]], Any], layout: ColumnLayout, groups: list[int], row_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Batches of about one window."""
    count = _batch_rows(row_bytes)

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
                check_indices(column)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


def _batch_rows(row_bytes: int) -> int:
    return max(1, min(WINDOW_ROWS, WINDOW_BYTES // max(1, row_bytes)))


def _int96_columns(schema: Any, names: list[str]) -> list[str]:
    """Those of the top-level columns that hold INT96, at any depth."""
    leaves = [schema.column(number) for number in range(len(schema.names))]
    paths = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    return [name for name in names if any(path == name or path.startswith(f"{name}.") for path in paths)]


def _after(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """What comes after so many rows."""
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


TRAITS = FormatTraits(
    format=SourceFormat.PARQUET,
    title="Parquet",
    suffixes=(".parquet", ".pq"),
    read=read_parquet,
    random_access=True,
    split=always(Split.GROUPS),
    compresses="pages",
    typed_ids=True,
    empty_has_no_rows=False,
    signature=b"PAR1",
    footer=FooterReader(fetch_footer, parse_footers),
)

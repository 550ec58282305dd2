"""Rows of a Lance fragment -> SourceRows, read by Lance itself at the version that the run is pinned to.

A fragment is what other formats call an object: `TABLE/fragment-7`. Its data lie in several files of a format of their own,
some rows are deleted, and only the table's manifest says which; so no byte of it is read here. Rows keep their numbers
within the fragment: deleted ones are handed on as nulls, which the slice names (ObjectSlice.deleted).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.errors import ObjectError, ObjectMissing, TransientError
from workers.host.optional_package import optional_package
from workers.reading.columnar import ColumnLayout, pieces
from workers.reading.source_rows import SourceRows
from workers.reading.tables.credentials import object_store_options
from workers.records.documents import WINDOW_ROWS, ReadPlan
from workers.records.pinned_table import PinnedTable
from workers.records.shard import ObjectSlice
from workers.storage.uris import public_line, redact

FRAGMENT = "fragment-"  # before the number, at the end of a fragment's URI
_ADDRESS = "_rowaddr"
_OFFSET = np.uint64(0xFFFFFFFF)  # of a row's address: its number within the fragment


def read_fragment(piece: ObjectSlice, table: PinnedTable, plan: ReadPlan) -> Iterator[SourceRows]:
    """Rows piece.first_row and on, as many as the slice has, deleted ones included.

    Raises:
        ObjectMissing: the version or the fragment is gone. ObjectError: it holds other rows than planned. TransientError.
        UsageError: pylance is not installed here.
    """
    uri = redact(piece.uri)
    if piece.first_row is None or piece.stored_rows is None:
        raise ValueError(f"{uri}: planned without the numbers of its rows")
    try:
        schema, fragment = _fragment(piece, table, plan)
        layout = ColumnLayout(uri, schema, {}, plan)
        live = row_numbers(fragment.scanner(columns=[], with_row_address=True).to_table().column(_ADDRESS))
        begin, end = np.searchsorted(live, [piece.first_row, piece.first_row + piece.stored_rows])
        if end - begin != piece.rows:
            raise ObjectError(uri, f"holds {end - begin} live rows where {piece.rows} were planned; start a new run")
        if begin == end:
            return
        scanner = fragment.scanner(
            columns=layout.fetched, with_row_address=True, offset=int(begin), limit=int(end - begin), batch_size=WINDOW_ROWS
        )
        at = piece.first_row
        for batch in scanner.to_batches():
            expanded = _with_gaps(batch, at)
            for part in pieces(expanded):
                yield layout.rows(part, at)
                at += part.num_rows
    except (OSError, RuntimeError, pa.ArrowException) as error:
        raise TransientError(f"{uri}: Lance cannot read it: {public_line(error)}") from None


def row_numbers(addresses: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers within the fragment, ascending. Raises: ValueError: they are not."""
    numbers: NDArray[np.int64] = (addresses.to_numpy() & _OFFSET).astype(np.int64)
    if len(numbers) > 1 and not (np.diff(numbers) > 0).all():
        raise ValueError("rows of a Lance fragment are not in order")
    return numbers


def _fragment(piece: ObjectSlice, table: PinnedTable, plan: ReadPlan) -> tuple[pa.Schema, Any]:
    lance = optional_package("lance", "lance", "corpus.table: lance, on every node,")
    try:
        options = object_store_options(plan.corpus) or None
        dataset = lance.dataset(plan.corpus.uri[0], version=int(table.version), storage_options=options)
        fragment = dataset.get_fragment(int(piece.uri.rpartition(FRAGMENT)[2]))
    except ValueError as error:
        reason = public_line(error)
        raise ObjectMissing(redact(piece.uri), f"version {table.version} of its table is gone ({reason})") from None
    if fragment is None:
        raise ObjectMissing(redact(piece.uri), f"is not in version {table.version} of its table")
    return dataset.schema, fragment


def _with_gaps(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """Every row from `first` to the batch's last; those that are deleted are nulls."""
    numbers = row_numbers(pa.chunked_array([batch.column(_ADDRESS)])) - first
    columns = batch.drop_columns([_ADDRESS])
    if numbers[-1] + 1 == len(numbers):
        return columns
    places = np.full(numbers[-1] + 1, -1, dtype=np.int64)
    places[numbers] = np.arange(len(numbers))
    return columns.take(pa.array(places, mask=places < 0))

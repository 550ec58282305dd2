"""Reads the parts of a Side: digests of rows without their vectors, digests of some rows' vectors, and whole rows to ship.

    scan_part     part -> [N, 7] key, text, other columns and place of each row; no vector is fetched
    part_vectors  part and the rows asked for -> [N, 3] place and digest of their vectors, with their keys
    part_rows     part and the rows asked for -> tables of chosen columns, partition columns in full

The last two read only row groups that hold rows asked for. Memory holds a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.errors import ObjectError, ObjectMissing
from workers.snapshot.changes.digests import key_digests, row_digests, vector_digests
from workers.snapshot.changes.sides import Side
from workers.snapshot.vectors import partition_columns
from workers.storage.store import Store
from workers.table.part_file import PartReader, open_part
from workers.table.schema import CHUNK, EMBEDDING, ID, TEXT_HASH

BATCH_BYTES = 16 << 20
BATCH_ROWS = 65_536
_WORD = np.dtype("<u8")
Rows = NDArray[np.uint64]


class Keyed(NamedTuple):
    """Digests of vectors [N, 3]: the row's place, then two words. `keys`: [N, 2]."""

    keys: Rows
    vectors: Rows


def scan_part(store: Store, side: Side, number: int) -> Iterator[Rows]:
    """Every row of a part. Raises: as opened()."""
    stored = [name for name in side.columns if name not in side.schema.partition_by]
    with opened(store, side, number) as part:
        values = partition_columns(part, side.parts[number].path, side.schema, side.schema.partition_by)
        first = 0
        for batch in part.batches(_batch_rows(part, stored), [ID, *_chunk(side), TEXT_HASH, *stored]):
            count = batch.num_rows
            columns = {name: batch.column(name) for name in stored}
            columns |= {name: _repeated(value, count, side.schema.rows.field(name).type) for name, value in values.items()}
            found = np.empty((count, 7), np.uint64)
            found[:, 0:2] = _keys(batch, side)
            found[:, 2:4] = _text_words(batch.column(TEXT_HASH), part.uri)
            found[:, 4:6] = row_digests(count, columns)
            found[:, 6] = places(number, np.arange(first, first + count))
            yield found
            first += count


def part_vectors(store: Store, side: Side, number: int, wanted: NDArray[np.bool_]) -> Iterator[Keyed]:
    """`wanted`: [rows of the part]. Raises: as opened()."""
    columns = [ID, *_chunk(side), *side.vectors]
    with opened(store, side, number) as part:
        for first, batch in _batches(part, columns, wanted):
            mine = np.flatnonzero(wanted[first : first + batch.num_rows])
            batch = batch.take(pa.array(mine)) if len(mine) < batch.num_rows else batch
            found = np.empty((len(mine), 3), np.uint64)
            found[:, 0] = places(number, mine + first)
            found[:, 1:] = _digests_of_vectors(batch, side)
            yield Keyed(_keys(batch, side), found)


def _digests_of_vectors(batch: pa.RecordBatch, side: Side) -> Rows:
    if side.schema.sparse:
        return row_digests(batch.num_rows, {name: batch.column(name) for name in side.vectors})
    return vector_digests(batch.column(EMBEDDING))


def part_rows(
    store: Store, side: Side, number: int, wanted: NDArray[np.bool_], names: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
    """Row numbers and rows, in the part's order. `names`: of side.schema.rows. Raises: as opened()."""
    stored = [name for name in names if name not in side.schema.partition_by]
    divided = [name for name in names if name in side.schema.partition_by]
    with opened(store, side, number) as part:
        values = partition_columns(part, side.parts[number].path, side.schema, divided)
        for first, batch in _batches(part, stored, wanted):
            mine = np.flatnonzero(wanted[first : first + batch.num_rows])
            table = pa.Table.from_batches([batch])
            table = table.take(pa.array(mine)) if len(mine) < batch.num_rows else table
            cells = [
                pa.chunked_array([_repeated(values[name], len(mine), side.schema.rows.field(name).type)])
                if name in values
                else table.column(name)
                for name in names
            ]
            schema = pa.schema([side.schema.rows.field(name) for name in names])
            whole = pa.Table.from_arrays(cells, names=list(names))
            yield mine + first, whole if whole.schema == schema else whole.cast(schema)


@contextlib.contextmanager
def opened(store: Store, side: Side, number: int) -> Iterator[PartReader]:
    """One part of a side, for reading.

    Raises:
        ObjectError: it is gone, damaged, or not the one that its receipt describes. TransientError, UsageError: the store.
    """
    file = side.parts[number]
    with contextlib.ExitStack() as stack:
        try:
            part = stack.enter_context(open_part(store, file.path, size=file.bytes))
        except FileNotFoundError:
            raise ObjectMissing(store.uri_of(file.path), f"a part of snapshot {side.run_id} is missing or altered") from None
        if part.rows != file.rows:
            raise ObjectError(part.uri, f"holds {part.rows} rows, {file.rows} by its receipt")
        yield part


def places(part: int, rows: NDArray[np.int64]) -> Rows:
    """[N] part and row as one word."""
    return (np.uint64(part) << np.uint64(32)) | rows.astype(np.uint64)


def _batches(part: PartReader, columns: Sequence[str], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches that hold rows asked for, each with the number of its first row."""
    first = 0
    for group, count in enumerate(part.row_groups):
        if wanted[first : first + count].any():
            at = first
            for batch in part.batches(_batch_rows(part, columns), columns, groups=[group]):
                if wanted[at : at + batch.num_rows].any():
                    yield at, batch
                at += batch.num_rows
        first += count


def _batch_rows(part: PartReader, columns: Sequence[str]) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, part.row_bytes(columns))))


def _chunk(side: Side) -> list[str]:
    return [CHUNK] if side.schema.chunked else []


def _keys(batch: pa.RecordBatch, side: Side) -> Rows:
    return key_digests(batch.column(ID), batch.column(CHUNK) if side.schema.chunked else None)


def _text_words(hashes: pa.Array, uri: str) -> Rows:
    if hashes.null_count or hashes.type.byte_width != 16:
        raise ObjectError(uri, "a text hash is missing, or of another size")
    words = np.frombuffer(hashes.buffers()[1], _WORD, 2 * len(hashes), hashes.offset * 16) if len(hashes) else np.empty(0)
    return words.reshape(-1, 2).astype(np.uint64)


def text_column(words: Rows) -> pa.Array:
    """[N, 2] -> fixed_size_binary(16), the inverse of what is scanned."""
    data = pa.py_buffer(np.ascontiguousarray(words.astype(_WORD)))
    return pa.Array.from_buffers(pa.binary(16), len(words), [None, data])


def _repeated(value: pa.Scalar, count: int, kind: pa.DataType) -> pa.Array:
    found = pa.repeat(value, count)
    return found if found.type == kind else found.cast(kind)

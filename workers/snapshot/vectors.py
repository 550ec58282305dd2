"""All vectors of a snapshot: part by part, in batches of bounded size, as float32, with the columns that are asked for.

    iterate_vectors    parts of a run -> VectorBatch after VectorBatch
    part_vectors       the same for one open part, without partition columns
    part_rows          a few rows of a part
    rows_where         the rows of a part for which a condition holds

Of a snapshot with several columns of vectors they read the one that is called `embedding`, or that of a view (schema.view).
Parts come in the order in which they are given, rows in the order in which they stand. Whoever wants several parts at once
calls iterate_vectors on threads, each with its own parts. Memory holds one batch, decoded, and what Parquet needs beside it
(one column chunk of the vectors, 32 MiB at most as parts are written). Knows nothing of runs and receipts: which parts are
the snapshot's is the caller's knowledge (jobs/state/stored_run.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.config import VectorType
from workers.errors import ObjectError, UsageError
from workers.host.spill_file import Positions
from workers.snapshot.where import Where
from workers.storage.store import Store
from workers.table.part_file import PartReader, decoding, open_part
from workers.table.partitions import hive_partitions
from workers.table.schema import PARTITION_VALUES, TEXT_HASH, OutputSchema
from workers.table.sparse import INDICES, SPARSE_COLUMNS, WEIGHTS, dense_of
from workers.table.sparse import entries as sparse_entries
from workers.table.vectors import Floats, VectorFormat, as_float32, vectors_per_row

BATCH_BYTES = 16 << 20  # of a batch: stored columns and decoded vectors together
_CONDITION_ROWS = 65_536
_DECODED = {VectorType.FLOAT32: 1, VectorType.FLOAT16: 2, VectorType.INT8: 4, VectorType.BINARY: 32}  # times the stored size


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """Consecutive rows of one part: N rows with V vectors of D components."""

    path: str  # of the part, relative to the output root
    first_row: int  # number of the first of these rows within the part
    vectors: Floats  # [V, D]; the rows' vectors end to end
    counts: Positions | None  # [N] vectors of each row, with pooling=tokens; None: one each, so V is N
    columns: pa.Table  # [N] what was asked for, in that order
    indices: NDArray[np.int32] | None = None  # [V] of pooling=sparse, whose entries then are the vectors, [V, 1]

    def __len__(self) -> int:
        return len(self.vectors) if self.counts is None else len(self.counts)


def iterate_vectors(
    store: Store,
    paths: Iterable[str],
    schema: OutputSchema,
    columns: Sequence[str] = (),
    *,
    token_vectors: bool = False,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[VectorBatch]:
    """Every vector of these parts.

    Args:
        schema: of the run that the parts belong to; its stamp says how vectors are stored, its `column` which are read.
        columns: of schema.rows, so partition columns too; these have the value in full, in the column's own type.
        token_vectors: take snapshots of pooling=tokens as well, in which a row holds a list of vectors, and of
            pooling=sparse, in which it holds a list of entries.
        batch_bytes: about the size of a batch; one row at least.

    Raises:
        UsageError: an unknown column, or a list of vectors a row where `token_vectors` is not set.
        FileNotFoundError: a part is gone. ObjectError: a part is damaged or has other columns than `schema`.
        TransientError, UsageError: the store.
    """
    unknown = [name for name in columns if name not in schema.plain.names]
    if unknown:
        there = ", ".join(schema.plain.names)
        raise UsageError(f"the snapshot has no column {unknown[0]!r} beside its vectors; it has {there}")
    if schema.lists and not token_vectors:
        kind = "a sparse vector" if schema.sparse else "a list of vectors"
        raise UsageError(
            f"the snapshot holds {kind} a row (model.pooling: {schema.stamp.pooling}); one vector a row is needed here"
        )
    stored = [name for name in columns if name not in schema.partition_by]
    for path in paths:
        with open_part(store, path) as part:
            values = partition_columns(part, path, schema, [name for name in columns if name in schema.partition_by])
            rows = _batch_rows(part, schema.vector_format, stored, batch_bytes)
            for batch in part_vectors(part, path, schema.vector_format, stored, rows, entries=schema.sparse):
                cells = [
                    pa.repeat(values[name], len(batch)) if name in values else batch.columns.column(name) for name in columns
                ]
                fields = [schema.rows.field(name) for name in columns]
                table = pa.Table.from_arrays(cells, schema=pa.schema(fields)) if fields else batch.columns
                yield VectorBatch(path, batch.first_row, batch.vectors, batch.counts, table, batch.indices)


def part_vectors(
    part: PartReader, path: str, stored: VectorFormat, columns: Sequence[str], rows: int, *, entries: bool = False
) -> Iterator[VectorBatch]:
    """All rows of an open part, `rows` at a time, with stored columns.

    `entries`: sparse vectors as what they hold, as VectorBatch.indices says; else with their zeros, [N, D].

    Raises:
        PartDamaged: also where the part has no such column. UsageError: int8 without a scale. TransientError: the store.
    """
    first = 0
    if stored.sparse:
        yield from _sparse_vectors(part, path, stored.dim, columns, rows, entries=entries)
        return
    for batch in part.batches(rows, [stored.column, *columns]):
        embedding = batch.column(stored.column)
        with decoding(part.uri):
            vectors = as_float32(embedding, stored.vector, stored.int8_scale)
            counts = vectors_per_row(embedding) if pa.types.is_list(embedding.type) else None
            if len(vectors) != (batch.num_rows if counts is None else counts.sum()):
                raise ValueError("a row without a vector")
        yield VectorBatch(path, first, vectors, counts, pa.Table.from_batches([batch]).select(list(columns)))
        first += batch.num_rows


def _sparse_vectors(
    part: PartReader, path: str, dim: int, columns: Sequence[str], rows: int, *, entries: bool
) -> Iterator[VectorBatch]:
    first = 0
    for batch in part.batches(rows, [*SPARSE_COLUMNS, *columns]):
        beside = pa.Table.from_batches([batch]).select(list(columns))
        with decoding(part.uri):
            found = sparse_entries(batch.column(INDICES), batch.column(WEIGHTS), dim)
        if entries:
            yield VectorBatch(path, first, found.weights[:, None], found.counts, beside, found.indices)
        else:
            yield VectorBatch(path, first, dense_of(found.weights, found.indices, found.counts, dim), None, beside)
        first += batch.num_rows


def part_rows(store: Store, path: str, schema: OutputSchema, rows: Positions) -> Iterator[VectorBatch]:
    """A batch of one row for each of `rows` (ascending, each once) of a part. Only their row groups are read.

    Raises: as iterate_vectors. IndexError: no such row.
    """
    with open_part(store, path) as part:
        form, first = schema.vector_format, 0
        for group, count in enumerate(part.row_groups):
            mine = rows[(rows >= first) & (rows < first + count)] - first
            if len(mine):
                table = pa.Table.from_batches(list(part.batches(count, [form.column], groups=[group])))
                for row in mine.tolist():
                    cell = table.column(form.column).slice(row, 1).combine_chunks()
                    with decoding(part.uri):
                        vectors = as_float32(cell, form.vector, form.int8_scale)
                    counts = vectors_per_row(cell) if schema.lists else None
                    yield VectorBatch(path, first + row, vectors, counts, table.select([]))
            first += count
        if len(rows) and rows[-1] >= first:
            raise IndexError(f"{part.uri}: has no row {rows[-1]}")


def rows_where(store: Store, path: str, schema: OutputSchema, where: Where) -> NDArray[np.bool_]:
    """[N] whether the condition holds for each row of a part; vectors are not read. Raises: as iterate_vectors."""
    stored = [name for name in where.columns if name not in schema.partition_by]
    with open_part(store, path) as part:
        values = partition_columns(part, path, schema, [name for name in where.columns if name in schema.partition_by])
        if not stored:
            stored = [TEXT_HASH]  # only to count rows: a file without columns has none
        found = []
        for batch in part.batches(_CONDITION_ROWS, stored):
            table = pa.Table.from_batches([batch])
            for name, value in values.items():
                table = table.append_column(name, pa.repeat(value, len(table)))
            found.append(where.rows(table))
        return np.concatenate(found) if found else np.zeros(0, np.bool_)


def _batch_rows(part: PartReader, stored: VectorFormat, columns: Sequence[str], batch_bytes: int) -> int:
    if stored.sparse:
        return max(1, batch_bytes // max(1, part.row_bytes(columns) + 2 * part.row_bytes(SPARSE_COLUMNS)))
    row_bytes = part.row_bytes(columns) + part.row_bytes([stored.column]) * (1 + _DECODED[stored.vector])
    return max(1, batch_bytes // max(1, row_bytes))


def partition_columns(part: PartReader, path: str, schema: OutputSchema, names: Sequence[str]) -> dict[str, pa.Scalar]:
    """The part's value of each partition column, from its footer: folder names may be shortened.

    Raises: ObjectError: a value that does not fit the column.
    """
    if not names:
        return {}
    try:
        texts = json.loads(part.footer[PARTITION_VALUES]) if PARTITION_VALUES in part.footer else {}
        texts = dict(hive_partitions(path.split("/")[:-1])) | texts
        return {name: _scalar(texts[name], schema.rows.field(name).type) for name in names}
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise ObjectError(part.uri, f"its partition values do not fit the snapshot's columns ({error!r:.200})") from None


def _scalar(text: str | None, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_dictionary(kind):
        return pa.array([text], pa.string()).cast(kind.value_type).dictionary_encode().cast(kind)[0]
    if pa.types.is_time(kind):  # Arrow has no cast from text
        moment = pa.array([text and f"1970-01-01 {text}"], pa.string())
        return moment.cast(pa.timestamp(kind.unit)).cast(kind)[0]
    return pa.array([text], pa.string()).cast(kind)[0]

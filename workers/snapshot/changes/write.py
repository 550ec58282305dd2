"""The rows of a comparison as Parquet files: what a reader of the old snapshot deletes, upserts and patches.

    deletes-<n>.parquet    op, id, [chunk], old_text_hash
    upserts-<n>.parquet    op (added, changed), id, [chunk], old_text_hash, text_hash, and all other columns of the new row
    patches-<n>.parquet    op (patched), the same without `embedding`

`chunk` is there if either snapshot has chunks; it is null for a whole document of one that has none. Rows keep the order of
the snapshot: deletes of the old one, the others of the new one. The same two snapshots give the same files, whoever was
killed before.
Memory holds a row group and a batch; the local disk one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.host.spill_file import local_disk
from workers.records.shard import OutputFile
from workers.snapshot.changes.compare import Comparison
from workers.snapshot.changes.decide import Op
from workers.snapshot.changes.scan import part_rows, text_column
from workers.snapshot.changes.sides import OLD_TEXT_HASH, OP, Side
from workers.storage.store import Store
from workers.table.part_file import ROW_GROUP_BYTES, ROW_GROUP_ROWS, write_columns
from workers.table.schema import CHUNK, ID, PREFIX, TEXT_HASH

DELETES, UPSERTS, PATCHES = "deletes", "upserts", "patches"
FILE_BYTES = 128 << 20  # of rows in memory
FROM, TO = PREFIX + "changes_from", PREFIX + "changes_to"


def write_changes(
    comparison: Comparison, source: Store, target: Store, folder: str, spill: Path, check: Callable[[], None]
) -> list[OutputFile]:
    """Write all files below `folder` of `target`; those that are there are replaced. `check`: before each write; may raise.

    Raises: as Comparison.
    """
    writer = _Writer(comparison, target, folder, spill, check)
    writer.write(DELETES, _deletes(comparison, source))
    writer.write(UPSERTS, _rows(comparison, source, (Op.ADDED, Op.CHANGED)))
    writer.write(PATCHES, _rows(comparison, source, (Op.PATCHED,)))
    return writer.files


def changes_schema(kind: str, old: Side | None, new: Side) -> pa.Schema:
    """The columns of a file."""
    stored = new.schema.rows
    own = old if old is not None and kind == DELETES else new
    fields = [pa.field(OP, pa.string(), nullable=False), stored.field(ID)]
    if new.schema.chunked or (old is not None and old.schema.chunked):
        fields.append(pa.field(CHUNK, pa.int32(), nullable=not own.schema.chunked))
    fields.append(pa.field(OLD_TEXT_HASH, stored.field(TEXT_HASH).type, nullable=kind != DELETES))
    if kind != DELETES:
        left_out = {ID, CHUNK, TEXT_HASH} | (set(new.vectors) if kind == PATCHES else set())
        fields += [stored.field(TEXT_HASH), *(field for field in stored if field.name not in left_out)]
    return pa.schema(fields)


def _deletes(comparison: Comparison, source: Store) -> Iterator[pa.Table]:
    old, new = comparison.old, comparison.new
    if old is None:
        return
    schema = changes_schema(DELETES, old, new)
    names = [ID, *([CHUNK] if old.schema.chunked else []), TEXT_HASH]
    for number in range(len(old.parts)):
        wanted = comparison.deleted(number)
        if wanted.any():
            for _, table in part_rows(source, old, number, wanted, names):
                cells = {name: table[name] for name in names[:-1]}
                ops = pa.repeat(Op.DELETED.name.lower(), len(table))
                yield _table(schema, len(table), cells | {OP: ops, OLD_TEXT_HASH: table[TEXT_HASH]})


def _rows(comparison: Comparison, source: Store, ops: tuple[Op, ...]) -> Iterator[pa.Table]:
    new = comparison.new
    kind = PATCHES if ops == (Op.PATCHED,) else UPSERTS
    schema = changes_schema(kind, comparison.old, new)
    names = [name for name in schema.names if name in new.schema.rows.names]
    told = pa.array([op.name.lower() for op in Op], pa.string())
    for number in range(len(new.parts)):
        op_R = comparison.ops(number)
        wanted = np.isin(op_R, np.array(ops, np.uint8))
        if wanted.any():
            texts = comparison.old_texts(number)
            for at, table in part_rows(source, new, number, wanted, names):
                mine = op_R[at]
                cells = {name: table[name] for name in names}
                cells |= {OP: told.take(pa.array(mine)), OLD_TEXT_HASH: _old_texts(at, mine, table[TEXT_HASH], texts)}
                yield _table(schema, len(table), cells)


def _old_texts(
    rows: NDArray[np.int64], ops: NDArray[np.uint8], hashes: pa.ChunkedArray, changed: NDArray[np.uint64]
) -> pa.Array:
    """[N] the old row's text hash: none for an added row, its own for one whose text is the same, else from `changed`."""
    own = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    own = own.chunk(0) if isinstance(own, pa.ChunkedArray) else own
    words = np.frombuffer(own.buffers()[1], "<u8", 2 * len(own), own.offset * 16).reshape(-1, 2).astype(np.uint64)
    at = np.searchsorted(changed[:, 0], rows.astype(np.uint64))
    place = np.minimum(at, max(0, len(changed) - 1))
    there = (changed[place, 0] == rows.astype(np.uint64)) if len(changed) else np.zeros(len(rows), np.bool_)
    words[there] = changed[place[there], 1:]
    known = text_column(words)
    return pc.if_else(pa.array(ops == Op.ADDED), pa.scalar(None, known.type), known)


def _table(schema: pa.Schema, rows: int, cells: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """The cells in the schema's order; a column that is not among them (chunk) is null."""
    columns = [cells[field.name] if field.name in cells else pa.nulls(rows, field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


class _Writer:
    """Cuts tables into row groups and files, and puts the files."""

    def __init__(self, comparison: Comparison, target: Store, folder: str, spill: Path, check: Callable[[], None]) -> None:
        self._sides, self._target, self._folder = (comparison.old, comparison.new), target, folder
        self._local, self._check = spill / "changes.parquet", check
        self.files: list[OutputFile] = []

    def write(self, kind: str, tables: Iterator[pa.Table]) -> None:
        old, new = self._sides
        schema = changes_schema(kind, old, new)
        footer = new.schema.stamp.footer() | {FROM: old.run_id if old is not None else "", TO: new.run_id}
        groups = _groups(tables)
        group, number = next(groups, None), 0
        while group is not None:
            rows = size = 0

            def of_one_file() -> Iterator[pa.Table]:
                nonlocal group, rows, size
                while group is not None and size < FILE_BYTES:
                    self._check()
                    rows, size = rows + len(group), size + group.nbytes
                    yield group
                    group = next(groups, None)

            with local_disk(self._local):
                write_columns(self._local, of_one_file(), schema, lambda: footer, new.schema.stamp.formats)
                data = self._local.read_bytes()
            path = f"{self._folder}/{kind}-{number:05d}.parquet"
            self._check()
            self._target.put(path, data)
            self.files.append(OutputFile(path, rows, len(data), hashlib.sha256(data).hexdigest(), ""))
            number += 1


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Row groups: whole tables until there are enough of them."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + len(table), size + table.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)

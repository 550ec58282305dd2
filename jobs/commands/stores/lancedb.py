"""LanceDB: the table `WHERE/TABLE.lance`, written by pylance; the tag `reembed` is the version that readers take.

    columns           id, chunk (-1 for a whole document), text_hash, embedding, and the others as the snapshot has them
    tag `reembed`     moved last, to a version that is a snapshot, whole
    reembed.run_id    in the configuration of that version: which snapshot
    reembed.loading   in the configuration of the newest version: the snapshot that is being loaded

Each delete, upsert and patch is a version of its own, so the newest version may lie between two snapshots; the tagged one
never does. A first load that was killed begins anew; a later one is repeated by key, which gives the same rows.
A LanceDB table is a Lance data set in the database's folder: `lancedb.connect(WHERE).open_table(TABLE)` opens it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from jobs.commands.stores.store import Shape, State, chunks_of, library, not_made
from workers.errors import UsageError
from workers.storage.uris import public_line, redact
from workers.table.schema import CHUNK, EMBEDDING, ID

TAG = "reembed"
RUN_ID, LOADING = "reembed.run_id", "reembed.loading"
MARK = b"reembed.table"  # in the schema of every version: a loader made it
KEY = [ID, CHUNK]
NAME = "lancedb"


class LanceTable:
    """A table of a database. `where`: the database's folder or URI; credentials by the environment (AWS_...)."""

    def __init__(self, where: str, table: str) -> None:
        """Raises: UsageError: the package is missing, or the table cannot be opened."""
        self._lance = library("lance", NAME)
        self.errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
        self._uri = f"{where.rstrip('/')}/{table}.lance"
        self._appends = False  # a first load: no row is there to be replaced
        self._shape: Shape | None = None
        self._data = self._open()

    def state(self) -> State:
        if self._data is None:
            return State()
        newest = self._data.config()
        tagged = self._tagged()
        if MARK not in (self._data.schema.metadata or {}):
            raise not_made(NAME, redact(self._uri))
        return State(None if tagged is None else tagged.config().get(RUN_ID), newest.get(LOADING) or None)

    def check(self, shape: Shape) -> None:
        if self._data is None or self._tagged() is None:
            return
        wanted, found = _schema(shape), self._data.schema
        if {field.name: field.type for field in found} != {field.name: field.type for field in wanted}:
            there, new = (", ".join(f"{field.name} {field.type}" for field in each) for each in (found, wanted))
            raise UsageError(
                f"load {NAME}: {redact(self._uri)} has other columns ({there}) than the snapshot ({new}); load it into "
                "another --table"
            )

    def begin(self, run_id: str, shape: Shape) -> None:
        self._shape = shape
        if self._data is None or self._tagged() is None:
            self._appends = True
            mode = "create" if self._data is None else "overwrite"
            self._data = self._lance.write_dataset(_schema(shape).empty_table(), self._uri, mode=mode)
        self._data.update_config({LOADING: run_id})

    def delete(self, rows: pa.Table) -> None:
        keys = pa.table({ID: rows[ID], CHUNK: chunks_of(rows)}, schema=pa.schema([_key(rows.schema), _CHUNK]))
        self._begun().merge_insert(KEY).when_matched_delete().execute(keys)

    def upsert(self, rows: pa.Table) -> None:
        data, table = self._begun(), self._rows(rows)
        if self._appends:
            self._data = self._lance.write_dataset(table, data, mode="append")
        else:
            data.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all().execute(table)

    def patch(self, rows: pa.Table) -> None:
        self._begun().merge_insert(KEY).when_matched_update_all().execute(self._rows(rows))

    def count(self) -> int:
        return int(self._begun().count_rows())

    def commit(self, run_id: str) -> None:
        data = self._begun()
        data.update_config({RUN_ID: run_id, LOADING: None})
        move = data.tags.create if self._tagged() is None else data.tags.update
        move(TAG, data.version)

    def close(self) -> None:
        """Nothing is open."""
        self._data = None

    def _open(self) -> Any:
        """None: there is no such table."""
        try:
            return self._lance.dataset(self._uri)
        except (OSError, ValueError, RuntimeError) as error:
            if "not found" in str(error).lower():
                return None
            reason = public_line(error)
            raise UsageError(f"load {NAME}: {redact(self._uri)} cannot be opened: {reason}; correct the uri") from None

    def _tagged(self) -> Any:
        """The version that readers take; None: there is none yet."""
        if self._data is None or TAG not in self._data.tags.list():
            return None
        return self._data.checkout_version(TAG)

    def _begun(self) -> Any:
        if self._data is None:
            raise RuntimeError("begin() comes first")
        return self._data

    def _rows(self, rows: pa.Table) -> pa.Table:
        """The columns that are there, as the table has them."""
        if self._shape is None:
            raise RuntimeError("begin() comes first")
        there = [field for field in _schema(self._shape) if field.name == CHUNK or field.name in rows.column_names]
        cells = {name: rows[name] for name in rows.column_names} | {CHUNK: chunks_of(rows)}
        if EMBEDDING in rows.column_names:
            numbers = pa.concat_arrays(rows[EMBEDDING].chunks).flatten()
            cells[EMBEDDING] = pa.FixedSizeListArray.from_arrays(numbers, rows.schema.field(EMBEDDING).type.list_size)
        return pa.Table.from_arrays([cells[field.name] for field in there], schema=pa.schema(there))


_CHUNK = pa.field(CHUNK, pa.int32())


def _key(schema: pa.Schema) -> pa.Field:
    return pa.field(ID, schema.field(ID).type)


def _schema(shape: Shape) -> pa.Schema:
    """Every field may be null: Lance takes patches without `embedding` for such a schema alone."""
    rows = shape.rows
    width = rows.field(EMBEDDING).type
    kinds = {field.name: field.type for field in rows} | {EMBEDDING: pa.list_(width.value_type, width.list_size)}
    names = [ID, CHUNK, *(name for name in rows.names if name not in KEY)]
    return pa.schema([_CHUNK if name == CHUNK else pa.field(name, kinds[name]) for name in names], {MARK: b"1"})

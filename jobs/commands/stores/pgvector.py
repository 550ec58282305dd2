"""PostgreSQL with pgvector: one table, brought from snapshot to snapshot in one transaction.

    TABLE (id text or bigint, chunk integer, text_hash bytea, embedding vector(D) or halfvec(D), attributes jsonb,
           PRIMARY KEY (id, chunk))         chunk: -1 for a whole document
    reembed_loads (name, run_id, loaded_at) which snapshot each table holds; written in the same transaction

Rows go by binary COPY into a temporary table, some thousands at a time, and from there into the table by key. Readers see
the snapshot before until the transaction is committed; a loader that was killed leaves nothing behind.
Binary forms: PostgreSQL, COPY, "Binary Format"; pgvector, src/vector.c and src/halfvec.c: int16 D, int16 0, D numbers.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from jobs.commands.stores.store import (
    LOADS,
    Shape,
    State,
    attributes_of,
    floats_only,
    keys_of,
    library,
    not_made,
    slices,
    vectors_of,
)
from workers.config import VectorType
from workers.errors import LockHeld, UsageError
from workers.storage.uris import public_line
from workers.table.schema import TEXT_HASH

BATCH = 10_000  # rows of a COPY: a temporary table of some 20 MB
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0), struct.pack("!h", -1)
MOST_COMPONENTS = 16_000  # of pgvector's types
LOCK_SECONDS = 5
KEY, ROW, PATCH = ("id", "chunk"), ("id", "chunk", "text_hash", "embedding", "attributes"), ("id", "chunk", "attributes")
NAME = "pgvector"


class PgVector:
    """A table of a database. `where`: postgresql://... or any connection string of libpq, whose variables count too."""

    def __init__(self, where: str, table: str) -> None:
        """Raises: UsageError: no connection. LockHeld: another loader works on the table."""
        psycopg = library("psycopg", NAME)
        self._sql = library("psycopg.sql", NAME)
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self._table = table
        self._shape: Shape | None = None
        try:
            self._connection = psycopg.connect(where, autocommit=True, application_name="reembed load")
        except psycopg.Error as error:
            reason = public_line(error)
            raise UsageError(f"load {NAME}: no connection: {reason}; correct the connection string") from None
        if not self._locked():
            self.close()
            raise LockHeld(f"load {NAME}: another loader works on table {table}; nothing was changed")

    def state(self) -> State:
        known = self._one("SELECT to_regclass(%s)::text", [LOADS])
        run_id = self._one(f"SELECT run_id FROM {LOADS} WHERE name = %s", [self._table]) if known else None  # noqa: S608
        if run_id is None and self._columns():
            raise not_made(NAME, self._table)
        if run_id is not None and not self._columns():
            raise UsageError(
                f"load {NAME}: {LOADS} says that table {self._table} holds {run_id}, and there is no such table; "
                f"remove its row there, and `reembed changes --consumer NAME --forget`"
            )
        return State(run_id)

    def check(self, shape: Shape) -> None:
        floats_only(shape, NAME)
        if shape.dim > MOST_COMPONENTS:
            raise UsageError(f"load {NAME}: {shape.dim} components; pgvector takes {MOST_COMPONENTS} (model.truncate_dim)")
        if not self._one("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"):
            raise UsageError(f"load {NAME}: the server has no pgvector; install it there (Debian: postgresql-17-pgvector)")
        wanted = {"id": _id_type(shape), "embedding": _vector_type(shape)}
        found = {name: kind for name, kind in self._columns().items() if name in wanted}
        if found and found != wanted:
            raise UsageError(
                f"load {NAME}: table {self._table} has {_told(found)}, the snapshot has {_told(wanted)}; load it into "
                "another --table"
            )

    def begin(self, run_id: str, shape: Shape) -> None:  # noqa: ARG002 - the transaction itself says what is unfinished
        self._shape = shape
        self._run("BEGIN")
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        self._run(
            f"CREATE TABLE IF NOT EXISTS {LOADS} "
            "(name text PRIMARY KEY, run_id text NOT NULL, loaded_at timestamptz NOT NULL)"
        )
        self._run(
            f"CREATE TABLE IF NOT EXISTS {{table}} (id {_id_type(shape)} NOT NULL, chunk integer NOT NULL, "
            f"text_hash bytea NOT NULL, embedding {_vector_type(shape)} NOT NULL, attributes jsonb NOT NULL, "
            "PRIMARY KEY (id, chunk))"
        )

    def delete(self, rows: pa.Table) -> None:
        for piece in slices(rows, BATCH):
            self._stage(KEY, (self._key(key) for key in keys_of(piece)))
            self._run("DELETE FROM {table} t USING {staged} s WHERE t.id = s.id AND t.chunk = s.chunk", KEY)

    def upsert(self, rows: pa.Table) -> None:
        shape = self._begun()
        for piece in slices(rows, BATCH):
            self._stage(ROW, self._rows(piece, shape))
            self._run(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged} ON CONFLICT (id, chunk) DO UPDATE SET "
                "text_hash = EXCLUDED.text_hash, embedding = EXCLUDED.embedding, attributes = EXCLUDED.attributes",
                ROW,
            )

    def patch(self, rows: pa.Table) -> None:
        shape = self._begun()
        for piece in slices(rows, BATCH):
            cells = zip(keys_of(piece), attributes_of(piece, shape), strict=True)
            self._stage(PATCH, ([*self._key(key), _jsonb(attributes)] for key, attributes in cells))
            self._run(
                "UPDATE {table} t SET attributes = s.attributes FROM {staged} s WHERE t.id = s.id AND t.chunk = s.chunk",
                PATCH,
            )

    def count(self) -> int:
        return int(self._run("SELECT count(*) FROM {table}").fetchone()[0])

    def commit(self, run_id: str) -> None:
        self._connection.execute(
            f"INSERT INTO {LOADS} VALUES (%s, %s, now()) "  # noqa: S608
            "ON CONFLICT (name) DO UPDATE SET run_id = EXCLUDED.run_id, loaded_at = now()",
            [self._table, run_id],
        )
        self._run("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _locked(self) -> bool:
        """The session's lock on the table. The server may need a moment to notice that the last loader was killed."""
        end = time.monotonic() + LOCK_SECONDS
        while not self._one("SELECT pg_try_advisory_lock(hashtext(%s), hashtext(%s))", [LOADS, self._table]):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _columns(self) -> dict[str, str]:
        """Name -> type of the table's columns; none where there is no table."""
        found = self._connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._table],
        )
        return dict(found.fetchall())

    def _stage(self, columns: Sequence[str], rows: Iterable[Sequence[bytes]]) -> None:
        """The temporary table of these columns holds exactly these rows."""
        self._run(
            "CREATE TEMP TABLE IF NOT EXISTS {staged} ON COMMIT DROP AS SELECT {columns} FROM {table} LIMIT 0",
            columns,
        )
        self._run("TRUNCATE {staged}", columns)
        count = struct.pack("!h", len(columns))
        fields = (count + b"".join(struct.pack("!i", len(cell)) + cell for cell in row) for row in rows)
        copy = self._composed("COPY {staged} ({columns}) FROM STDIN (FORMAT BINARY)", columns)
        with self._connection.cursor() as cursor, cursor.copy(copy) as stream:
            stream.write(HEADER + b"".join(fields) + TRAILER)

    def _rows(self, piece: pa.Table, shape: Shape) -> Iterable[Sequence[bytes]]:
        half = shape.vector is VectorType.FLOAT16
        vectors = vectors_of(piece, shape.dim).astype(">f2" if half else ">f4")
        size = struct.pack("!hh", shape.dim, 0)
        hashes = piece[TEXT_HASH].to_pylist()
        cells = zip(keys_of(piece), hashes, vectors, attributes_of(piece, shape), strict=True)
        for key, text_hash, vector, attributes in cells:
            yield [*self._key(key), text_hash, size + vector.tobytes(), _jsonb(attributes)]

    def _key(self, key: tuple[Any, int]) -> list[bytes]:
        id_ = struct.pack("!q", key[0]) if self._begun().id_is_number else str(key[0]).encode()
        return [id_, struct.pack("!i", key[1])]

    def _begun(self) -> Shape:
        if self._shape is None:
            raise RuntimeError("begin() comes first")
        return self._shape

    def _composed(self, text: str, columns: Sequence[str] = ()) -> Any:
        named = self._sql.Identifier
        listed = self._sql.SQL(", ").join(map(named, columns))
        staged = named(f"reembed_staged_{len(columns)}")
        return self._sql.SQL(text).format(table=named(self._table), staged=staged, columns=listed)

    def _run(self, text: str, columns: Sequence[str] = ()) -> Any:
        return self._connection.execute(self._composed(text, columns))

    def _one(self, text: str, values: Sequence[Any] = ()) -> Any:
        row = self._connection.execute(text, list(values)).fetchone()
        return row[0] if row else None


def _id_type(shape: Shape) -> str:
    return "bigint" if shape.id_is_number else "text"


def _vector_type(shape: Shape) -> str:
    return f"{'halfvec' if shape.vector is VectorType.FLOAT16 else 'vector'}({shape.dim})"


def _told(types: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(types.items()))


def _jsonb(attributes: dict[str, Any]) -> bytes:
    """Version 1 of jsonb's binary form is the text."""
    return b"\x01" + json.dumps(attributes, ensure_ascii=False, allow_nan=False).encode()

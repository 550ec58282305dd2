"""What `reembed load` asks of a vector store, and the parts of a change set in the forms that stores take.

    VectorStore    one table or collection of a store: state, check, begin, delete, upsert, patch, count, commit
    State          which snapshot it holds, and which one is being loaded
    Shape          what the rows of a snapshot are made of
    keys_of        (id, chunk) of each row; WHOLE stands for the chunk of a whole document
    key_digest     a key as one field
    vectors_of     [N, D] the embeddings
    attributes_of  the other columns of each row, as values that JSON has

A change set may be applied twice, in whole or in part: rows are deleted, replaced and patched by key. A store without
transactions is therefore brought to the snapshot by repeating the set, and its state says so until it is done.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.config import VectorType
from workers.errors import UsageError
from workers.host.optional_package import optional_package
from workers.snapshot.changes.sides import OLD_TEXT_HASH, OP
from workers.storage.uris import public_line, redact
from workers.table.schema import CHUNK, EMBEDDING, ID, TEXT_HASH

WHOLE = -1  # in place of a chunk: keys of stores and joins know no nulls
TABLE = re.compile(r"[a-z][a-z0-9_]{0,47}")
KEY_BYTES = 16  # of key_digest()
LOADS = "reembed_loads"  # where a store that keeps states beside its tables keeps them


@dataclass(frozen=True, slots=True)
class State:
    """`run_id`: the snapshot that readers find; None: none. `loading`: the one that a loader has begun to bring in."""

    run_id: str | None = None
    loading: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """D components of type `vector` a row. `rows`: the columns that are loaded; other columns of vectors are not."""

    dim: int
    vector: VectorType
    normalized: bool
    rows: pa.Schema

    @property
    def id_is_number(self) -> bool:
        return bool(pa.types.is_integer(self.rows.field(ID).type))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Columns beside key, text hash and vector."""
        return tuple(name for name in self.rows.names if name not in (ID, CHUNK, TEXT_HASH, EMBEDDING))


class VectorStore(Protocol):
    """One table. `errors`: what its library raises when the store fails. Tables are at most 128 MiB of rows.

    `begin` to `commit` is one load; `commit` makes the snapshot the one that readers find. What a loader that died in
    between has done is undone by the store, or repeated by the next one.
    """

    errors: tuple[type[Exception], ...]

    def state(self) -> State:
        """Reads only. Raises: UsageError: there is a table of the name that no loader made."""

    def check(self, shape: Shape) -> None:
        """Reads only. Raises: UsageError: the store cannot hold such rows, or the table holds others."""

    def begin(self, run_id: str, shape: Shape) -> None:
        """`run_id`: the snapshot that is about to be loaded. Makes the table where there is none."""

    def delete(self, rows: pa.Table) -> None:
        """Rows with `id` and, where there are chunks, `chunk`; those that are not there are no error."""

    def upsert(self, rows: pa.Table) -> None:
        """All columns; a row of the same key is replaced."""

    def patch(self, rows: pa.Table) -> None:
        """All columns but `embedding`; the vector that is there stays."""

    def count(self) -> int:
        """Rows that readers will find after `commit`."""

    def commit(self, run_id: str) -> None:
        """The snapshot is there, whole."""

    def close(self) -> None:
        """Ends the connection; what was not committed is undone where the store has transactions."""


def library(name: str, extra: str) -> ModuleType:
    """Raises: UsageError: it is not installed."""
    return optional_package(name, extra, f"load {extra}:")


def not_made(store: str, table: str) -> UsageError:
    return UsageError(f"load {store}: there is a {table} that `reembed load` did not make; choose another --table")


def gone(store: str, table: str, run_id: str) -> UsageError:
    return UsageError(
        f"load {store}: {LOADS} says that collection {table} holds {run_id}, and there is no such collection; "
        "choose another --table"
    )


def unanswered(store: str, where: str, error: Exception) -> UsageError:
    reason = public_line(error)
    return UsageError(f"load {store}: {redact(where)} does not answer: {reason}; correct the address")


def floats_only(shape: Shape, store: str) -> None:
    """Raises: UsageError: the embeddings are no float32 and no float16."""
    if shape.vector not in (VectorType.FLOAT32, VectorType.FLOAT16):
        raise UsageError(
            f"load {store}: embedding is {shape.vector.value}, and {store} takes float32 and float16; make `embedding` one "
            "of those (output.vectors may have the other beside it)"
        )


def slices(rows: pa.Table, count: int) -> Iterator[pa.Table]:
    """Runs of at most `count` rows."""
    for start in range(0, len(rows), count):
        yield rows.slice(start, count)


def chunks_of(rows: pa.Table) -> pa.Array:
    """int32, without nulls."""
    if CHUNK not in rows.column_names:
        return pa.repeat(pa.scalar(WHOLE, pa.int32()), len(rows))
    return pa.concat_arrays(rows[CHUNK].fill_null(WHOLE).cast(pa.int32()).chunks)


def keys_of(rows: pa.Table) -> list[tuple[Any, int]]:
    return list(zip(rows[ID].to_pylist(), chunks_of(rows).to_pylist(), strict=True))


def key_digest(*key: Any) -> bytes:
    """128 bits of the key's BLAKE2b, for a store whose keys are one field."""
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=KEY_BYTES).digest()


def vectors_of(rows: pa.Table, dim: int) -> NDArray[Any]:
    """[N, D] in the type that is stored."""
    cells = pa.concat_arrays(rows[EMBEDDING].chunks).flatten()
    return np.asarray(cells.to_numpy(zero_copy_only=False)).reshape(-1, dim)


def attributes_of(rows: pa.Table, shape: Shape) -> list[dict[str, Any]]:
    """By column. Times are ISO 8601, bytes hexadecimal, decimals and floats that are not finite text."""
    return [{name: plain(cell) for name, cell in row.items()} for row in rows.select(shape.attributes).to_pylist()]


def plain(cell: Any) -> Any:
    """A value as JSON has it."""
    if cell is None or isinstance(cell, bool | int | str):
        return cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else str(cell)
    if isinstance(cell, bytes):
        return cell.hex()
    if isinstance(cell, dict):
        return {str(name): plain(each) for name, each in cell.items()}
    if isinstance(cell, list | tuple):
        return [plain(each) for each in cell]
    return cell.isoformat() if hasattr(cell, "isoformat") else str(cell)


def kind_of(rows: pa.Table) -> str:
    """`upsert`, `patch` or `delete`: what the rows of a file of a change set are for."""
    if EMBEDDING in rows.column_names:
        return "upsert"
    return "patch" if TEXT_HASH in rows.column_names else "delete"


def loaded_columns(rows: pa.Schema, vectors: tuple[str, ...]) -> pa.Schema:
    """A snapshot's columns without those of vectors beside `embedding`, and without what only a change set has."""
    left_out = {OP, OLD_TEXT_HASH, *(name for name in vectors if name != EMBEDDING)}
    return pa.schema([field for field in rows if field.name not in left_out])
